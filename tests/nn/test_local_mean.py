"""A mean over a window is that of the window's pixels, wherever it lies and however large the image is."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from abbe.nn import local_mean as file
from abbe.nn.local_mean import local_mean, spread, window_sums

EXTENTS = st.tuples(st.integers(1, 23), st.integers(1, 23))


def maps(extents: tuple[int, int], channels: int = 2, seed: int = 0) -> torch.Tensor:
    return torch.randn(2, channels, *extents, generator=torch.Generator().manual_seed(seed)) + 3


def by_hand(x: torch.Tensor, window: int) -> np.ndarray:
    """Average the window of each pixel, moved inwards where it would leave the image (window cut to the image)."""
    values, shape = x.double().numpy(), x.shape[-2:]
    means = np.empty(values.shape)
    for index in np.ndindex(*shape):
        parts = []
        for place, extent in zip(index, shape, strict=True):
            side = min(window, extent)
            start = min(max(place - (side - 1) // 2, 0), extent - side)
            parts.append(slice(start, start + side))
        means[..., *index] = values[..., *parts].mean((-2, -1))
    return means


@given(EXTENTS, st.integers(1, 30))
@settings(deadline=None, max_examples=40)
def test_it_is_the_mean_of_the_window_around_each_pixel(extents: tuple[int, int], window: int) -> None:
    x = maps(extents)
    found = spread(local_mean(x, window), extents).expand_as(x)
    np.testing.assert_allclose(found.numpy(), by_hand(x, window), rtol=1e-5, atol=1e-5)


@given(st.integers(1, 40), st.integers(1, 40))
@settings(deadline=None, max_examples=40)
def test_sums_are_exact(extent: int, length: int) -> None:
    x = torch.arange(1.0, extent + 1) ** 2
    if length <= extent:
        expected = [int((x[i : i + length]).sum()) for i in range(extent - length + 1)]
        assert window_sums(x, length, 0).tolist() == expected


@given(EXTENTS, st.integers(0, 10))
@settings(deadline=None, max_examples=20)
def test_a_window_that_covers_the_image_is_the_global_mean(extents: tuple[int, int], more: int) -> None:
    x = maps(extents)
    expected = torch.nn.functional.adaptive_avg_pool2d(x, 1)
    for window in (max(extents) + more, None):
        torch.testing.assert_close(spread(local_mean(x, window), extents), expected)


def test_a_part_gives_bit_for_bit_what_the_whole_gives() -> None:
    x = maps((40, 200))
    assert torch.equal(local_mean(x[..., 31:150], 13), local_mean(x, 13)[..., 31 : 150 - 12])


def test_a_pixel_that_is_no_number_spoils_its_own_windows_alone() -> None:
    x = maps((1, 50))
    x[..., 20] = torch.nan
    assert local_mean(x, 7)[0, 0, 0].isnan().nonzero().ravel().tolist() == list(range(14, 21))


def test_large_values_far_away_cost_no_precision() -> None:
    x = maps((8, 400))
    expected = local_mean(x, 9)
    x[..., :100] *= 1e8
    assert torch.equal(local_mean(x, 9)[..., 100:], expected[..., 100:])


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float64])
def test_the_type_stays_and_half_precision_sums_do_not_overflow(dtype: torch.dtype) -> None:
    x = torch.full((1, 1, 90, 90), 100.0, dtype=dtype)
    found = local_mean(x, 60)
    assert found.dtype == dtype
    assert bool((found == 100).all())


def test_channels_in_portions_give_the_same(monkeypatch: pytest.MonkeyPatch) -> None:
    x = maps((20, 20), channels=7)
    expected = local_mean(x, 6)
    for number in (1, 20 * 20 * 2 * 3):
        monkeypatch.setattr(file, "AT_ONCE", number)
        assert torch.equal(local_mean(x.contiguous(memory_format=torch.channels_last), 6), expected)


def test_gradients_flow() -> None:
    x = maps((5, 6), channels=1).double().requires_grad_()
    assert torch.autograd.gradcheck(lambda x: spread(local_mean(x, 3), (5, 6)), x)
