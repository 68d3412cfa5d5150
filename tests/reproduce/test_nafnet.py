"""NAFNet's claim: its twin is as large, it has no activation functions, and the verdict counts chance in."""

from __future__ import annotations

import numpy as np
import pandas as pd
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn

from abbe.reproduce.claims import ClaimSettings
from abbe.reproduce.denoising import Course
from abbe.reproduce.nafnet import COLOURS, GELU, NOTHING, PLAIN, Budget, judge, network_of, run, sizes

TINY = Budget(Course(2, 2, 16, 2, 0, 0.01), seeds=2, width=4, blocks=(1,), middle=1, held_out=2, side=32)
ACTIVATIONS = (nn.ReLU, nn.GELU, nn.Sigmoid, nn.Softmax, nn.Tanh, nn.SiLU)


def activations(name: str) -> set[str]:
    modules = network_of(name, TINY).modules()
    return {type(module).__name__ for module in modules if isinstance(module, ACTIVATIONS)}


def test_only_the_twin_has_activation_functions():
    assert activations(PLAIN) == set()
    assert activations(GELU) == {"GELU", "ReLU", "Sigmoid"}


def test_both_are_of_one_size():
    found = sizes(Budget()).set_index("network")
    assert set(found.index) == set(COLOURS)
    for column in ("parameters", "multiply_adds"):
        assert found[column].max() <= 1.1 * found[column].min()


def test_multiply_adds_by_hand():
    """One level, no blocks: 9 w in and out at each pixel, 4 w · 2w at each fourth, and 2w · 4w back from it."""
    width = 4
    budget = Budget(TINY.course, width=width, blocks=(0,), middle=0)
    expected = 2 * 9 * width + (4 * width * 2 * width + 2 * width * 4 * width) / 4
    assert sizes(budget)["multiply_adds"].tolist() == pytest.approx([expected] * 2)


def curves(differences: list[float]) -> pd.DataFrame:
    """Trainings in which NAFNet ends so far above its twin, one for each seed."""
    rows = []
    for seed, difference in enumerate(differences):
        for name in COLOURS:
            end = 28 + seed / 10 + (difference if name == PLAIN else 0)
            rows += [(name, seed, 1, 50.0, 100, 10.0), (name, seed, 2, end, 100, 10.0)]
    return pd.DataFrame(rows, columns=["network", "seed", "step", "psnr", "parameters", "multiply_adds"])


@given(st.lists(st.floats(-1, 1), min_size=2, max_size=5))
@settings(max_examples=40, deadline=None)
def test_it_holds_where_a_loss_is_unlikely(differences: list[float]):
    holds, sentence = judge(curves(differences), 20.0)
    lower = np.mean(differences) - 2 * np.std(differences, ddof=1) / np.sqrt(len(differences))
    if abs(lower + NOTHING) > 1e-6:
        assert holds == (lower > -NOTHING)
    assert ("loses nothing" in sentence) == holds


def test_one_seed_is_not_enough_to_know():
    assert not judge(curves([0.5]), 20.0)[0]


def test_a_tiny_run_gives_table_and_figure_and_repeats_itself():
    tables = []
    for _ in range(2):
        told: list[str] = []
        found = run(ClaimSettings(seed=4), told.append, TINY)
        tables.append(found.table)
    assert found.table.groupby("network")["seed"].unique().map(list).map(sorted).tolist() == [[4, 5]] * 2
    assert len(found.figure.axes) == 2
    assert "100%" in told[-1]
    assert found.sentence.endswith(".")
    pd.testing.assert_frame_equal(*tables)
