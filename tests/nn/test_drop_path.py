"""Properties of drop path."""

from __future__ import annotations

import pytest
import torch

from abbe.nn.drop_path import DropPath, ramp


def test_samples_are_kept_whole_or_dropped_whole() -> None:
    torch.manual_seed(0)
    x = torch.rand(4000, 3, 2) + 1
    kept = (DropPath(0.25)(x) / x).flatten(1)
    assert bool(((kept == 0).all(1) | torch.isclose(kept, torch.tensor(4 / 3)).all(1)).all())
    assert kept.mean().item() == pytest.approx(1, abs=0.03)  # four standard errors


def test_evaluation_and_rate_zero_change_nothing() -> None:
    x = torch.randn(5, 2)
    assert DropPath(0.9).eval()(x) is x
    assert DropPath(0.0)(x) is x


def test_a_seed_repeats_the_draw() -> None:
    layer, x = DropPath(0.5), torch.ones(64, 1)
    draws = [(torch.manual_seed(3), layer(x))[1] for _ in range(2)]
    assert torch.equal(*draws)


def test_the_ramp_is_even() -> None:
    assert ramp(0.4, 5) == pytest.approx([0, 0.1, 0.2, 0.3, 0.4])
    assert ramp(0.4, 1) == [0.0]


@pytest.mark.parametrize("rate", [-0.1, 1.0])
def test_an_impossible_rate_is_told(rate: float) -> None:
    with pytest.raises(ValueError, match="drop path rate"):
        DropPath(rate)
