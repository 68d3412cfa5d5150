"""Sums that are made: right, of the difficulty they say, and never in both training and test."""

from __future__ import annotations

from collections import Counter
from itertools import combinations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from abbe.data.sample import TokenPair
from abbe.data.sequences import (
    VOCABULARY,
    GeneratedSequences,
    SumsConfig,
    draw_sum,
    held_out_sums,
    longest_chain,
    make_sum,
    part_of,
    to_text,
    to_tokens,
)
from abbe.errors import AbbeError


@settings(deadline=None, max_examples=40)
@given(first=st.integers(0, 10**18), second=st.integers(0, 10**18), least_first=st.booleans())
def test_the_target_is_the_sum(first: int, second: int, least_first: bool) -> None:
    pair = make_sum(first, second, least_first)
    assert to_text(pair.source) == f"{first}+{second}" == pair.name
    written = to_text(pair.target)
    assert int(written[::-1] if least_first else written) == first + second
    assert min(pair.source.min(), pair.target.min()) >= 3
    assert max(pair.source.max(), pair.target.max()) < VOCABULARY


@settings(deadline=None, max_examples=40)
@given(first=st.integers(0, 10**9), second=st.integers(0, 10**9))
def test_a_chain_is_a_run_of_carries(first: int, second: int) -> None:
    """Column k carries where the last k + 1 digits of the summands make more than 10^(k+1) − 1."""
    carries = "".join(str(int(first % 10 ** (k + 1) + second % 10 ** (k + 1) >= 10 ** (k + 1))) for k in range(11))
    chain = longest_chain(first, second)
    runs = [len(run) for run in carries.split("0") if run]
    assert chain <= max(runs, default=0)  # a run may be of two chains, where a column carries by itself
    assert (chain > 0) == bool(runs)


@pytest.mark.parametrize(
    ("first", "second", "chain"), [(4999, 1, 3), (12, 34, 0), (5, 5, 1), (55, 55, 2), (999, 999, 3)]
)
def test_chains_by_hand(first: int, second: int, chain: int) -> None:
    assert longest_chain(first, second) == chain


def test_sums_are_for_one_purpose_alone() -> None:
    config, generator = SumsConfig(digits=2, validated=150, tested=200), np.random.default_rng(0)
    parts = [{pair.name for pair in held_out_sums(config, part)} for part in ("validation", "test")]
    parts.append({draw_sum(config, generator).name for _ in range(2000)})
    assert [len(part) for part in parts[:2]] == [150, 200]
    swapped = [part | {"+".join(reversed(name.split("+"))) for name in part} for part in parts]
    assert not any(one & other for one, other in combinations(swapped, 2))
    share = Counter(part_of(i, j) for i in range(60) for j in range(i, 60))
    assert share["train"] / share.total() == pytest.approx(0.9, abs=0.03)
    assert share["test"] / share.total() == pytest.approx(0.05, abs=0.02)


def test_lengths_are_even_and_long_chains_are_common() -> None:
    generator = np.random.default_rng(0)
    pairs = [draw_sum(SumsConfig(digits=4), generator) for _ in range(2000)]
    chains = np.bincount([pair.difficulty for pair in pairs])
    assert len(chains) == 5
    assert (chains[1:] > 40).all()
    longest = max(max(len(part) for part in pair.name.split("+")) for pair in pairs)
    assert longest == 4


def test_items_depend_on_seed_epoch_and_index_alone() -> None:
    def prepare(pair: TokenPair, generator: np.random.Generator) -> dict[str, object]:
        return {"name": pair.name, "number": generator.random()}

    def data(seed: int) -> GeneratedSequences:
        config = SumsConfig(digits=3)
        return GeneratedSequences(lambda rng: draw_sum(config, rng), prepare, 50, seed)  # type: ignore

    one, other = data(0), data(0)
    assert [one[i] for i in range(5)] == [other[i] for i in reversed(range(5))][::-1]
    assert one[0] != data(1)[0]
    before = one[3]
    one.set_epoch(1)
    assert one[3] != before
    with pytest.raises(IndexError):
        one[50]


def test_what_cannot_be_is_told() -> None:
    with pytest.raises(AbbeError, match="no tokens for - x"):
        to_tokens("1-x")
    with pytest.raises(AbbeError, match="digits: expected 1 to 18, found 0"):
        SumsConfig(digits=0)
    with pytest.raises(AbbeError, match="expected 1 at least, found 0 and 5"):
        SumsConfig(validated=0, tested=5)
    with pytest.raises(AbbeError, match="not 40 different sums of up to 1 digits for test"):
        held_out_sums(SumsConfig(digits=1, tested=40), "test")
    assert to_text(np.array([0, 3, 99])) == "?0?"
