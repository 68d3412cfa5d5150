"""Learning rates and optimizers."""

from __future__ import annotations

import math
from collections.abc import Iterable
from typing import Any

import torch
from torch import nn

from abbe.train.depth import depth_scale, layer_depths
from abbe.train.recipe import TrainConfig

PATIENCE = 10
"""Validations in a row without a better score, after which a plateau halves the rate: Keras' and Noise2Void's."""
BETTER = 1e-4
"""By how much a score has to be better."""


def learning_rate_factor(step: int, *, total: int, warmup: int, schedule: str, halved: int = 0) -> float:
    """Fraction of the highest learning rate at a step, counted from 0.

    Linear from ``1 / warmup`` to 1 during the warm-up; then half a cosine that would reach 0 at ``total``
    (Loshchilov and Hutter, 2017, without restarts), constant, falling with the root of the step (Vaswani et al., 2017,
    Eq. 3), or halved as often as :func:`halvings` says.
    """
    if step < warmup:
        return (step + 1) / warmup
    if schedule == "constant":
        return 1.0
    if schedule == "inverse_root":
        return math.sqrt(max(1, warmup) / (step + 1))
    if schedule == "plateau":
        return 0.5**halved
    progress = (step - warmup) / max(1, total - warmup)
    return 0.5 * (1.0 + math.cos(math.pi * min(1.0, progress)))


def halvings(scores: Iterable[float], mode: str) -> int:
    """Count the plateaus in the deciding scores of a run; ``mode`` is "min" or "max"."""
    best, waited, found = math.inf, 0, 0
    for score in scores:
        cost = score if mode == "min" else -score
        if cost < best - BETTER:
            best, waited = cost, 0
        else:
            waited += 1
        if waited == PATIENCE:
            waited, found = 0, found + 1
    return found


def set_learning_rate(optimizer: torch.optim.Optimizer, factor: float) -> None:
    """Set every group's rate to ``factor`` of its own highest one."""
    for group in optimizer.param_groups:
        group["lr"] = group["highest_lr"] * factor


def build_optimizers(method: Any, config: TrainConfig) -> dict[str, torch.optim.Optimizer]:
    """Make one optimizer per player, or a single one, under the name ``""``, for a method without players."""
    if hasattr(method, "players"):
        return {name: _build(_split(_unnamed(side), config), config) for name, side in method.players().items()}
    if hasattr(method, "parameter_groups"):
        return {"": _build(list(method.parameter_groups()), config)}
    if config.layer_decay < 1:
        return {"": _build(_by_depth(method, config), config)}
    return {"": _build(_split(dict(method.named_parameters()), config), config)}


def _unnamed(parameters: Iterable[nn.Parameter]) -> dict[str, nn.Parameter]:
    return {str(number): parameter for number, parameter in enumerate(parameters)}


def _split(parameters: dict[str, nn.Parameter], config: TrainConfig) -> list[dict[str, Any]]:
    """AdamW does not decay norms and biases; the classic optimizers decay all, as in the classic papers."""
    trained = [p for p in parameters.values() if p.requires_grad]
    if config.optimizer != "adamw":
        return [{"params": trained}]
    decayed = {"params": [p for p in trained if p.ndim > 1], "weight_decay": config.weight_decay}
    free = {"params": [p for p in trained if p.ndim <= 1], "weight_decay": 0.0}
    return [group for group in (decayed, free) if group["params"]]


def _by_depth(method: nn.Module, config: TrainConfig) -> list[dict[str, Any]]:
    """Groups of lower learning rates the nearer to the input they are, the head's first."""
    depths = layer_depths(method)
    named = dict(method.named_parameters())
    deepest = max(depths.values(), default=0)
    groups = []
    for depth in range(deepest, -1, -1):
        rate = config.learning_rate * depth_scale(depth, deepest, config.layer_decay)
        inside = {name: parameter for name, parameter in named.items() if depths[name] == depth}
        groups += [group | {"lr": rate} for group in _split(inside, config) if group["params"]]
    return groups


def _build(groups: list[dict[str, Any]], config: TrainConfig) -> torch.optim.Optimizer:
    rate, decay, momentum = config.learning_rate, config.weight_decay, config.momentum
    optimizer: torch.optim.Optimizer
    if config.optimizer == "sgd":
        optimizer = torch.optim.SGD(groups, rate, momentum, weight_decay=decay)
    else:
        adaptive = torch.optim.AdamW if config.optimizer == "adamw" else torch.optim.Adam
        optimizer = adaptive(groups, rate, (momentum, config.second_beta), weight_decay=decay)
    for group in optimizer.param_groups:
        group["highest_lr"] = group["lr"]
    return optimizer
