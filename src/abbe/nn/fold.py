"""Batch normalisation folded into the convolution before it."""

from __future__ import annotations

from itertools import pairwise

from torch import nn
from torch.nn.utils.fusion import fuse_conv_bn_eval


def fold_batch_norm(module: nn.Module) -> nn.Module:
    """Fold every convolution and batch norm that stand side by side in an ``nn.Sequential``; works in place.

    In evaluation both are linear, so their product is one convolution with a bias: the outputs stay the same up to
    rounding, and one pass over the activations is saved.
    """
    for child in module.children():
        fold_batch_norm(child)
    if isinstance(module, nn.Sequential):
        for i, (conv, norm) in enumerate(pairwise(list(module))):
            if isinstance(conv, nn.Conv2d | nn.Conv3d) and isinstance(norm, nn.BatchNorm2d | nn.BatchNorm3d):
                module[i] = fuse_conv_bn_eval(conv.eval(), norm.eval())
                module[i + 1] = nn.Identity()
    return module
