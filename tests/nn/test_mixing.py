from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from abbe.nn.mixing import cut_mix, mix, mix_up


def batch(n: int, side: int = 12) -> tuple[torch.Tensor, torch.Tensor]:
    """Pictures that say in every pixel whose they are, and a class for each."""
    image = torch.arange(n, dtype=torch.float32).view(n, 1, 1, 1).expand(n, 2, side, side + 3).contiguous()
    return image, torch.eye(n)


@settings(deadline=None, max_examples=40)
@given(st.integers(0, 10**6), st.integers(1, 6), st.sampled_from([(0.4, 0.0), (0.0, 1.0), (0.8, 1.0)]))
def test_classes_are_shared_as_the_pictures_are(seed: int, n: int, alphas: tuple[float, float]) -> None:
    image, target = batch(n)
    mixed, shares = mix(image, target, *alphas, torch.Generator().manual_seed(seed))
    assert shares.sum(dim=1) == pytest.approx(torch.ones(n))
    # the mean value of a mixed picture is the mean of those that it was mixed from, by their shares
    assert torch.allclose(mixed.mean(dim=(1, 2, 3)), shares @ torch.arange(n, dtype=torch.float32), atol=1e-4)
    again, _ = mix(image, target, *alphas, torch.Generator().manual_seed(seed))
    assert torch.equal(mixed, again)


def test_nothing_is_mixed_when_both_are_off() -> None:
    image, target = batch(3)
    assert mix(image, target, 0.0, 0.0, torch.Generator()) == (image, target)


@settings(deadline=None, max_examples=40)
@given(st.floats(0, 1), st.integers(0, 100))
def test_a_cut_is_one_rectangle_of_its_partner(share: float, seed: int) -> None:
    image, _ = batch(3)
    mixed, kept = cut_mix(image, share, np.random.default_rng(seed))
    foreign = mixed[1, 0] != image[1, 0]
    assert 1 - float(foreign.float().mean()) == pytest.approx(kept)
    assert kept >= share - 0.2  # the border clips, and sides are whole pixels
    rows, columns = foreign.any(1), foreign.any(0)
    assert torch.equal(foreign, rows[:, None] & columns)
    assert torch.all(mixed[1, :, foreign] == 0)


def test_mixup_is_a_weighted_sum() -> None:
    image, _ = batch(2)
    mixed, share = mix_up(image, 0.25, np.random.default_rng(0))
    assert share == 0.25
    assert torch.all(mixed[1] == 0.25)
    assert torch.all(mixed[0] == 0.75)
