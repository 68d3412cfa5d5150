"""DnCNN's claims: the verdict follows from the numbers, and a tiny run gives them all."""

from __future__ import annotations

from dataclasses import replace
from itertools import product

import pandas as pd
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from abbe.reproduce.claims import ClaimSettings
from abbe.reproduce.denoising import Course
from abbe.reproduce.dncnn import (
    BLIND,
    BOTH,
    INPUT,
    LEVELS,
    NEARLY,
    SIGMA,
    SPECIALISTS,
    VARIANTS,
    Budget,
    judge,
    judge_levels,
    run,
    specialist,
)

TINY = Budget(Course(2, 2, 16, 2, 1, 1.0), seeds=1, depth=3, width=4, held_out=2, side=16)


def curves(ends: dict[tuple[str, int], float]) -> pd.DataFrame:
    """Curves that end so, by network and seed; all of them begin at 50 dB, which has not to count."""
    rows = [{"network": name, "seed": seed, "step": 2, "psnr": psnr} for (name, seed), psnr in ends.items()]
    return pd.DataFrame([{**row, "step": 1, "psnr": 50.0} for row in rows] + rows)


def levels(at_home: float = 0.0, abroad: float = 3.0, over_input: float = 5.0) -> pd.DataFrame:
    """Levels at which the blind network differs from the specialists, at their own and at others."""
    rows = []
    for sigma in LEVELS:
        rows += [(INPUT, sigma, 20.0), (BLIND, sigma, 20 + over_input)]
        for own in SPECIALISTS:
            rows.append((specialist(own), sigma, 20 + over_input - (at_home if own == sigma else abroad)))
    return pd.DataFrame(rows, columns=["network", "sigma", "psnr"])


@given(st.lists(st.floats(10, 40), min_size=8, max_size=8))
@settings(max_examples=40, deadline=None)
def test_both_ideas_have_to_be_ahead_with_each_seed(psnr: list[float]):
    ends = dict(zip(product(VARIANTS, (0, 1)), psnr, strict=True))
    best = all(ends[BOTH, seed] > max(ends[other, seed] for other in VARIANTS if other != BOTH) for seed in (0, 1))
    holds, sentence = judge(curves(ends), levels())
    assert holds == best
    assert ("do not end best" in sentence) != best


@pytest.mark.parametrize(
    ("found", "holds"),
    [
        ({}, True),
        ({"at_home": -NEARLY + 0.01}, True),
        ({"at_home": -NEARLY - 0.01}, False),
        ({"abroad": -0.5}, False),
        ({"over_input": -0.1}, False),
    ],
)
def test_the_blind_network_has_to_cover_all_levels(found: dict[str, float], holds: bool):
    verdict, sentence = judge_levels(levels(**found))
    assert verdict == holds
    assert ("does not cover" in sentence) != holds


def test_a_tiny_run_gives_table_and_figure_and_repeats_itself():
    tables = []
    for _ in range(2):
        told: list[str] = []
        found = run(ClaimSettings(seed=3), told.append, TINY)
        tables.append(found.table)
    variants, measured = (found.table[found.table["what"] == what] for what in ("variants", "levels"))
    assert set(zip(variants["network"], variants["seed"])) == set(product(VARIANTS, (3,)))
    assert len(measured) == len(LEVELS) * (2 + len(SPECIALISTS))
    assert len(found.figure.axes) == 2
    assert "100%" in told[-1]
    assert found.sentence.endswith(".")
    pd.testing.assert_frame_equal(*tables)


def test_another_seed_is_another_training_and_leaves_the_first_as_it_was():
    once, twice = (run(ClaimSettings(), lambda line: None, replace(TINY, seeds=seeds)) for seeds in (1, 2))
    tables = [found.table[found.table["what"] == "variants"] for found in (once, twice)]
    ends = tables[1].groupby(["network", "seed"])["psnr"].last().unstack()
    assert (ends[0] != ends[1]).all()
    assert (tables[0].groupby("network")["psnr"].last() == ends[0]).all()


def test_the_specialist_of_the_four_networks_level_is_the_first_of_them():
    table = run(ClaimSettings(), lambda line: None, TINY).table
    four = table[(table["what"] == "variants") & (table["network"] == BOTH)]
    own = table[(table["network"] == specialist(SIGMA)) & (table["sigma"] == SIGMA)]
    assert own["psnr"].item() == pytest.approx(four["psnr"].iloc[-1])
