"""Four networks trained alike: the same batches, errors that are shares, and a verdict that follows from them."""

from __future__ import annotations

import sys
from pathlib import Path
from types import ModuleType, SimpleNamespace

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from abbe.data.write import write_png
from abbe.errors import AbbeError
from abbe.reproduce.claims import ClaimSettings
from abbe.reproduce.digits import draw_digits, handwritten_digits
from abbe.reproduce.pictures import SIDE, load_pictures
from abbe.reproduce.resnet import NETWORKS, Budget, Trained, batches, judge, run

TINY = Budget(images=40, held_out=20, steps=3, batch=4, warmup=1)


def ended_with(error: float, number: int = 400, batch: int = 32) -> Trained:
    """A training whose every batch has the error."""
    return Trained(np.ones(number), np.full(number, error), error, batch)


@given(
    st.tuples(*[st.floats(0, 1)] * 4),
)
@settings(max_examples=40, deadline=None)
def test_the_verdict_needs_a_rise_without_shortcuts_and_none_with_them(errors: tuple[float, float, float, float]):
    holds, sentence = judge({name: ended_with(error) for name, error in zip(NETWORKS, errors)})
    plain, residual = errors[1] - errors[0], errors[3] - errors[2]
    if holds:
        assert plain > 0
    if plain > 0.2 and residual <= 0:
        assert holds
    if residual > 0.2:
        assert not holds
    assert all(name in sentence for name in NETWORKS)


def test_a_difference_within_chance_is_none():
    """Shares of 60 steps of 32 pictures have a standard error of about 1.1 points at one half: 3.2 is twice a
    difference's."""
    errors = dict(zip(NETWORKS, (0.5, 0.51, 0.5, 0.5)))
    assert not judge({name: ended_with(error) for name, error in errors.items()})[0]
    errors |= {"plain-56": 0.6, "ResNet-56": 0.51}
    assert judge({name: ended_with(error) for name, error in errors.items()})[0]


def test_every_epoch_has_every_picture_once():
    order = torch.cat(batches(12, Budget(steps=9, batch=4), seed=1))
    assert all(sorted(part.tolist()) == list(range(12)) for part in order.split(12))
    assert not torch.equal(order[:12], order[12:24])


def test_a_tiny_run_gives_table_and_figure_and_repeats_itself():
    tables = []
    for _ in range(2):
        told: list[str] = []
        found = run(ClaimSettings(seed=5), told.append, TINY)
        tables.append(found.table)
    assert list(found.table.network) == list(NETWORKS)
    assert found.table[["training_error", "held_out_error"]].stack().between(0, 1).all()
    assert len(found.figure.axes) == 2
    assert "100%" in told[-1]
    assert tables[0].equals(tables[1])


# ------------------------------------------------------------------------------------------------------- pictures


def test_digits_are_ten_classes_of_equal_size():
    pictures, classes = draw_digits(60, SIDE, np.random.default_rng(0))
    assert pictures.shape == (60, 1, SIDE, SIDE)
    assert np.bincount(classes).tolist() == [6] * 10
    assert np.isfinite(pictures).all()


def test_digits_can_be_told_apart_better_than_by_chance():
    """By the nearest of the mean pictures of 1,000 others."""
    pictures, classes = draw_digits(1200, SIDE, np.random.default_rng(1))
    vectors = pictures.reshape(len(pictures), -1)
    means = np.stack([vectors[:1000][classes[:1000] == digit].mean(0) for digit in range(10)])
    nearest = ((vectors[1000:, None] - means) ** 2).sum(-1).argmin(1)
    assert (nearest == classes[1000:]).mean() > 0.25


@pytest.fixture
def scanned(monkeypatch: pytest.MonkeyPatch) -> np.ndarray:
    """Stand in for scikit-learn, which need not be installed: 1,797 pictures (8, 8) of 0 to 16."""
    images = np.random.default_rng(0).integers(0, 17, (1797, 8, 8)).astype(float)
    module = ModuleType("sklearn.datasets")
    module.load_digits = lambda: SimpleNamespace(images=images, target=np.arange(1797) % 10)  # type: ignore[attr-defined]
    monkeypatch.setitem(sys.modules, "sklearn", ModuleType("sklearn"))
    monkeypatch.setitem(sys.modules, "sklearn.datasets", module)
    return images


def test_the_digits_of_scikit_learn_are_taken_where_it_is_installed(scanned: np.ndarray):
    pictures = load_pictures(None, 400, 100, seed=0)
    assert pictures.pixels.shape == (400, 1, SIDE, SIDE)
    assert pictures.held_out_pixels.shape == (100, 1, SIDE, SIDE)
    assert (pictures.source, pictures.note) == ("handwritten digits", "")
    same = (pictures.pixels[:, None, :, 0] == pictures.held_out_pixels[:, :, 0]).flatten(2).all(-1)
    assert not same.any()
    everything = load_pictures(None, 10**6, 10**6, seed=0)
    assert (len(everything.classes), len(everything.held_out_classes)) == (1438, 359)  # four fifths of 1,797, the rest


def test_enlarged_digits_have_the_ink_of_the_small_ones(scanned: np.ndarray):
    found = handwritten_digits(SIDE)
    assert found is not None
    pictures, classes = found
    assert pictures.shape == (1797, 1, SIDE, SIDE)
    assert classes[:12].tolist() == [*range(10), 0, 1]
    assert (pictures.min(), pictures.max()) == (0, 1)
    middle = pictures[:, 0, 1::4, 1::4] + pictures[:, 0, 2::4, 2::4]  # on both sides of the small pixels' centres
    assert np.corrcoef(middle.ravel(), scanned.ravel())[0, 1] > 0.9


def test_digits_are_drawn_where_it_is_not(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setitem(sys.modules, "sklearn.datasets", None)
    told: list[str] = []
    run(ClaimSettings(seed=5), told.append, TINY)
    assert told[0] == "40 pictures of 10 classes from drawn digits"
    assert "scikit-learn" in told[1]
    assert "pip install 'abbe[embed]'" in told[1]


def a_folder(root: Path, number: int, side: int = 40, kinds: tuple[str, ...] = ("a", "b")) -> Path:
    generator = np.random.default_rng(0)
    for kind in kinds:
        (root / kind).mkdir(parents=True)
        for i in range(number):
            write_png(root / kind / f"{i}.png", generator.integers(0, 256, (side, side, 3), np.uint8))
    return root


def test_folders_are_read_scaled_normalised_and_held_out_pictures_are_others(tmp_path: Path):
    pictures = load_pictures(a_folder(tmp_path / "cells", 10), 100, 100, seed=0)
    assert pictures.pixels.shape == (16, 3, SIDE, SIDE)
    assert pictures.held_out_pixels.shape == (4, 3, SIDE, SIDE)
    torch.testing.assert_close(pictures.pixels.mean((0, 2, 3)), torch.zeros(3), atol=1e-4, rtol=0)
    torch.testing.assert_close(pictures.pixels.std((0, 2, 3), correction=0), torch.ones(3), atol=1e-4, rtol=0)
    assert pictures.number == 2
    assert pictures.source == "cells"
    same = (pictures.pixels[:, None] == pictures.held_out_pixels).flatten(2).all(-1)
    assert not same.any()


def test_splits_of_folders_are_kept_and_parts_have_equally_many_of_each_class(tmp_path: Path):
    a_folder(tmp_path / "train", 9, side=32)
    a_folder(tmp_path / "test", 6, side=32)
    pictures = load_pictures(tmp_path, 8, 6, seed=0)
    assert torch.bincount(pictures.classes).tolist() == [4, 4]
    assert torch.bincount(pictures.held_out_classes).tolist() == [3, 3]


def test_one_class_is_refused(tmp_path: Path):
    with pytest.raises(AbbeError, match="one class of images"):
        load_pictures(a_folder(tmp_path, 3, kinds=("a",)), 8, 6, seed=0)
