"""What a backbone gives to those who build on it."""

from __future__ import annotations

from typing import Protocol, runtime_checkable

import torch


@runtime_checkable
class Backbone(Protocol):
    """A network for whole images whose inner features others may use.

    Its ``forward`` gives logits (B, classes); with ``num_classes`` 0 the features before the last layer, (B, D).
    """

    @property
    def strides(self) -> tuple[int, ...]:
        """Pixels of the image per pixel of each feature map, finest first."""

    @property
    def widths(self) -> tuple[int, ...]:
        """Channels of each feature map."""

    def pyramid(self, x: torch.Tensor) -> list[torch.Tensor]:
        """Compute the feature maps of images (B, C, Y, X), (B, width, Y / stride, X / stride) each, finest first."""


@runtime_checkable
class TokenBackbone(Protocol):
    """A transformer: one token per patch, behind ``prefix`` tokens that belong to no patch."""

    @property
    def patch(self) -> tuple[int, int]:
        """Pixels of a patch along Y and X."""

    @property
    def prefix(self) -> int:
        """Tokens before those of the patches, such as the class token."""

    def tokens(self, x: torch.Tensor) -> torch.Tensor:
        """Compute the last tokens of images (B, C, Y, X), normalised: (B, prefix + patches, D)."""
