"""The learning rate's course and the parameters' groups."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn

from abbe.methods.attention.transformer import learning_rate
from abbe.train.recipe import TrainConfig
from abbe.train.schedule import (
    BETTER,
    PATIENCE,
    build_optimizers,
    halvings,
    learning_rate_factor,
    set_learning_rate,
)


def factors(total: int, warmup: int, schedule: str) -> list[float]:
    return [learning_rate_factor(step, total=total, warmup=warmup, schedule=schedule) for step in range(total)]


def test_cosine_equals_torch() -> None:
    optimizer = torch.optim.SGD([nn.Parameter(torch.zeros(1))], lr=1.0)
    reference = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, T_max=20)
    expected = []
    for _ in range(20):
        expected.append(optimizer.param_groups[0]["lr"])
        optimizer.step()
        reference.step()
    assert factors(20, 0, "cosine") == pytest.approx(expected)


def test_warmup_rises_in_equal_steps_to_the_highest_rate() -> None:
    course = factors(30, 5, "cosine")
    assert course[:5] == pytest.approx([0.2, 0.4, 0.6, 0.8, 1.0])
    assert course[5] == 1.0
    assert course[5:] == sorted(course[5:], reverse=True)
    assert learning_rate_factor(30, total=30, warmup=5, schedule="cosine") == pytest.approx(0.0)


def test_constant_stays() -> None:
    assert factors(6, 2, "constant") == [0.5, 1.0, 1.0, 1.0, 1.0, 1.0]


def test_inverse_root_is_the_transformer_s() -> None:
    highest = learning_rate(40, 64, warmup=40)
    expected = [learning_rate(step, 64, warmup=40) / highest for step in range(1, 201)]
    assert factors(200, 40, "inverse_root") == pytest.approx(expected)


@settings(deadline=None, max_examples=30)
@given(st.lists(st.sampled_from([0.5, 1.0, 1.00005, 2.0, float("nan")]), max_size=60), st.sampled_from(["min", "max"]))
def test_plateaus_are_torch_s(scores: list[float], mode: str) -> None:
    """Of torch, whose patience is one less than Keras' for the same course."""
    optimizer = torch.optim.SGD([nn.Parameter(torch.zeros(1))], lr=1.0)
    reference = torch.optim.lr_scheduler.ReduceLROnPlateau(
        optimizer, mode, 0.5, PATIENCE - 1, threshold=BETTER, threshold_mode="abs", eps=0
    )
    for score in scores:
        reference.step(score)
    found = learning_rate_factor(5, total=9, warmup=2, schedule="plateau", halved=halvings(scores, mode))
    assert found == optimizer.param_groups[0]["lr"]


def test_only_matrices_and_kernels_decay_under_adamw() -> None:
    method = nn.Sequential(nn.Conv2d(1, 2, 3), nn.BatchNorm2d(2))
    method[1].weight.requires_grad_(False)
    (optimizer,) = build_optimizers(method, TrainConfig(weight_decay=0.1)).values()
    assert [(len(g["params"]), g["weight_decay"]) for g in optimizer.param_groups] == [(1, 0.1), (2, 0.0)]
    (optimizer,) = build_optimizers(method, TrainConfig(weight_decay=0.1, optimizer="sgd")).values()
    assert [(len(g["params"]), g["weight_decay"]) for g in optimizer.param_groups] == [(3, 0.1)]


def test_own_parameter_groups_keep_their_relative_rates() -> None:
    class Layered(nn.Linear):
        def parameter_groups(self) -> list[dict[str, Any]]:
            return [{"params": [self.weight], "lr": 0.01}, {"params": [self.bias]}]

    (optimizer,) = build_optimizers(Layered(2, 2), TrainConfig(learning_rate=0.1)).values()
    set_learning_rate(optimizer, 0.5)
    assert [group["lr"] for group in optimizer.param_groups] == pytest.approx([0.005, 0.05])
