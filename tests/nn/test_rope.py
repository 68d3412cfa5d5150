"""Rotary positions: the identities of the paper, in one to three dimensions and both pairings."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from abbe.nn.rope import Pairing, adjacent_from_half, angles, frequencies, grid, half_from_adjacent, rotate

PAIRINGS: tuple[Pairing, ...] = ("adjacent", "half")
PLACES = st.integers(-3000, 3000)


def noise(*shape: int, seed: int = 0) -> torch.Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed))


def matrix(place: tuple[int, ...], channels: int, pairing: Pairing) -> torch.Tensor:
    """R_m, (d, d): the rotation of each unit vector, in its columns."""
    angle = angles(torch.tensor([place]), channels)
    return rotate(torch.eye(channels), angle, pairing).T


@settings(deadline=None, max_examples=40)
@given(m=PLACES, n=PLACES, pairing=st.sampled_from(PAIRINGS))
def test_the_product_of_two_rotations_is_that_of_the_distance(m: int, n: int, pairing: Pairing) -> None:
    """R_mᵀ R_n = R_(n−m), Eq. 16; angles of 3000 radians leave float32 with 2e-4."""
    relative = matrix((m,), 8, pairing).T @ matrix((n,), 8, pairing)
    torch.testing.assert_close(relative, matrix((n - m,), 8, pairing), rtol=0, atol=2e-3)


@settings(deadline=None, max_examples=20)
@given(
    places=st.integers(1, 3).flatmap(
        lambda axes: st.tuples(*(st.lists(st.integers(-60, 60), min_size=axes, max_size=axes) for _ in range(3)))
    ),
    pairing=st.sampled_from(PAIRINGS),
)
def test_scores_depend_on_the_distance_along_every_axis(places: tuple[list[int], ...], pairing: Pairing) -> None:
    m, n, shift = (torch.tensor(place) for place in places)
    q, k = noise(1, 14), noise(1, 14, seed=1)

    def score(m: torch.Tensor, n: torch.Tensor) -> torch.Tensor:
        return (rotate(q, angles(m[None], 14), pairing) * rotate(k, angles(n[None], 14), pairing)).sum()

    torch.testing.assert_close(score(m + shift, n + shift), score(m, n), rtol=0, atol=2e-3)


@pytest.mark.parametrize("pairing", PAIRINGS)
def test_rotation_is_the_paper_s_matrix(pairing: Pairing) -> None:
    """Eq. 15, written out: blocks of cos and sin on the diagonal."""
    m, d = 5, 6
    expected = torch.zeros(d, d)
    for i in range(d // 2):
        turned = torch.tensor(m * 10000.0 ** (-2 * i / d))
        first, second = (2 * i, 2 * i + 1) if pairing == "adjacent" else (i, i + d // 2)
        expected[first, first] = expected[second, second] = turned.cos()
        expected[second, first], expected[first, second] = turned.sin(), -turned.sin()
    torch.testing.assert_close(matrix((m,), d, pairing), expected)


@pytest.mark.parametrize("axes", [1, 2, 3])
def test_lengths_stay_and_the_origin_does_not_turn(axes: int) -> None:
    places = grid((3, 4, 5)[:axes])
    x = noise(2, len(places), 12)
    turned = rotate(x, angles(places, 12))
    torch.testing.assert_close(turned.norm(dim=-1), x.norm(dim=-1))
    torch.testing.assert_close(turned[:, 0], x[:, 0])
    assert not torch.allclose(turned[:, -1], x[:, -1], atol=0.1)


def test_each_axis_turns_its_own_channels() -> None:
    angle = angles(grid((2, 3, 4)), 14)  # 7 pairs: two for each axis, one left over
    assert angle.shape == (24, 7)
    assert angle[-1].tolist() == pytest.approx([1, 0.01, 2, 0.02, 3, 0.03, 0])


def test_scores_fade_with_distance() -> None:
    """The bound of Section 3.4.3, the mean of |S_i|: Fig. 2 of the paper, for d = 128."""
    turned = torch.arange(257)[:, None] * frequencies(64)
    sums = torch.polar(torch.ones_like(turned), turned).cumsum(dim=1)
    bound = sums.abs().mean(dim=1)
    near, middle, far = bound[:16].mean(), bound[64:128].mean(), bound[192:].mean()
    assert bound[0] == bound.max() == pytest.approx(32.5)  # the mean of 1 to 64
    assert near > 1.5 * middle
    assert middle > 1.15 * far


def test_angles_are_float32_whatever_the_network_computes_in() -> None:
    places = torch.arange(1000)
    assert angles(places.bfloat16().long(), 8).dtype == torch.float32
    x = noise(1000, 8)
    turned = rotate(x.bfloat16(), angles(places, 8))
    assert turned.dtype == torch.bfloat16
    torch.testing.assert_close(turned.float(), rotate(x.bfloat16().float(), angles(places, 8)), rtol=0.01, atol=0.01)


def test_the_two_pairings_differ_by_an_order_of_channels() -> None:
    heads, d = 3, 8
    weight, bias, x = noise(heads * d, 5), noise(heads * d, seed=1), noise(7, 5, seed=2)
    angle = angles(torch.arange(7), d)

    def scores(weight: torch.Tensor, bias: torch.Tensor, pairing: Pairing) -> torch.Tensor:
        q = rotate((x @ weight.T + bias).unflatten(-1, (heads, d)).transpose(0, 1), angle, pairing)
        return q @ q.transpose(1, 2)

    other = half_from_adjacent(weight, heads), half_from_adjacent(bias, heads)
    torch.testing.assert_close(scores(*other, "half"), scores(weight, bias, "adjacent"), rtol=1e-4, atol=1e-4)
    assert torch.equal(adjacent_from_half(other[0], heads), weight)
    assert torch.equal(adjacent_from_half(other[1], heads), bias)


@pytest.mark.parametrize(("channels", "axes"), [(7, 1), (4, 3)])
def test_channels_that_make_no_pairs_are_told(channels: int, axes: int) -> None:
    with pytest.raises(ValueError, match="do not make pairs for"):
        angles(torch.zeros(5, axes), channels)
