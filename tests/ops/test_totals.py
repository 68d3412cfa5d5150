"""A batch in parts gives the loss of the whole batch."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch.utils.data import default_collate

from abbe.api import create
from abbe.data.sample import Sample, TokenPair
from abbe.learn import describe
from abbe.methods.catalog import ENTRIES, OBJECTIVES
from abbe.model import build_method, wrap
from abbe.ops.totals import batch_total, shared_batch
from abbe.train.recipe import Recipe


def parts_mean(parts: list[torch.Tensor]) -> Any:
    """What an average over processes gives each of them."""
    mean = torch.stack([part.float() for part in parts]).mean()
    return lambda _: mean


def test_alone_a_count_is_itself() -> None:
    count = torch.tensor(7)
    assert batch_total(count) is count
    with shared_batch(parts_mean([count, count + 2])):
        assert batch_total(count) == 8
    assert batch_total(count) is count


def test_a_total_has_no_gradient() -> None:
    count = torch.tensor(3.0, requires_grad=True)
    with shared_batch(lambda total: total * 2):
        assert not batch_total(count).requires_grad


@settings(deadline=None, max_examples=40)
@given(st.lists(st.tuples(st.floats(0, 1e3), st.integers(0, 1000)), min_size=1, max_size=5))
def test_mean_of_the_parts_is_the_whole(parts: list[tuple[float, int]]) -> None:
    if sum(count for _, count in parts) == 0:
        return
    with shared_batch(parts_mean([torch.tensor(count) for _, count in parts])):
        losses = [error / batch_total(torch.tensor(count)) for error, count in parts]
    whole = sum(error for error, _ in parts) / sum(count for _, count in parts)
    assert float(torch.stack(losses).mean()) == pytest.approx(whole, rel=1e-5, abs=1e-9)


@pytest.mark.parametrize("objective", OBJECTIVES)
def test_losses_of_every_objective_come_from_the_whole_batch(objective: str) -> None:
    """Four samples with very different annotated areas, in two halves; batch norms do not mix them."""
    torch.manual_seed(0)
    method = tiny_method(objective).eval()
    rng = np.random.default_rng(0)
    batch = default_collate([method.prepare(sample(method, rng, known), rng) for known in (60, 2, 9, 4)])
    halves = [{key: value[part] for key, value in batch.items()} for part in (slice(0, 2), slice(2, 4))]
    with torch.no_grad():
        whole = step(method, batch)
        counts: list[list[torch.Tensor]] = []
        for half in halves:  # first what each half counts, then the losses with the means of the counts
            counts.append([])
            with shared_batch(lambda total, seen=counts[-1]: seen.append(total) or total):  # type: ignore[func-returns-value]
                step(method, half)
        losses = []
        for half in halves:
            means = iter([torch.stack(both).mean() for both in zip(*counts, strict=True)])
            with shared_batch(lambda _, means=means: next(means)):
                losses.append(step(method, half))
    for name, value in whole.items():
        mean = torch.stack([half[name] for half in losses]).mean()
        torch.testing.assert_close(mean, value, atol=1e-5, rtol=1e-5, msg=f"{objective}: {name}")


def tiny_method(objective: str) -> Any:
    tiny = {n: e for n, e in ENTRIES.items() if n.endswith("_tiny") and e.task != "segmentation"}
    tiny |= {n: e for n, e in ENTRIES.items() if n in ("unet_2015_tiny", "unet_falk_2d_tiny", "unet_residual_tiny")}
    del tiny["convnext_test_tiny"], tiny["alexnet_tiny"]  # of the classifiers one is enough
    name = next(n for n, e in tiny.items() if e.objective in (objective, objective[:4]))
    if ENTRIES[name].task in ("translation", "masked tokens"):
        return wrap(create(name, dropout=0.0), objective, {"mask": 3} if objective == "masked_tokens" else {})
    options = {"classes": ["even", "odd"]} if objective == "classification" else {}
    return build_method(describe(Recipe(name="tiny", method=name, objective=objective, options=options)))


def sample(method: Any, rng: np.random.Generator, known: int) -> Any:
    """Make a field of which ``known`` rows are annotated, or as many tokens."""
    if method.joins == "sequence":
        tokens = rng.integers(4, 9, (2, 40))
        tokens[0, known // 2 + 1 :] = method.network.config.padding
        return TokenPair(tokens[0], tokens[1, : known // 2 + 1])
    labels = np.zeros((64, 64), np.int32)
    for number, corner in enumerate(rng.integers(0, 48, (5, 2)), 1):
        labels[corner[0] : corner[0] + 12, corner[1] : corner[1] + 12] = number
    ignore = np.ones(labels.shape, bool)
    ignore[:known] = False
    ignore[:, 30:34] = False
    image = rng.normal(0, 1, (method.in_channels, 64, 64)).astype(np.float32)
    return Sample(image, labels, ignore, extra={"class": known % 2})


def step(method: Any, batch: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    return method.training_step(batch, generator=torch.Generator().manual_seed(0))
