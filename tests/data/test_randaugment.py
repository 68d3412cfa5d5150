from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from abbe.data.augment import AugmentConfig, augment
from abbe.data.randaugment import GEOMETRY, GREY, erase, randaugment
from abbe.data.sample import Sample

OPERATIONS = [*GREY, *GEOMETRY]


def drawn(seed: int, channels: int, side: int = 17, scale: float = 1.0, offset: float = 0.0) -> np.ndarray:
    return np.random.default_rng(seed).random((channels, side, side + 4), dtype=np.float32) * scale + offset


@settings(deadline=None, max_examples=40)
@given(st.integers(0, 99), st.integers(1, 5), st.integers(0, 3), st.floats(0, 30), st.floats(0, 9), st.floats(-5, 5))
def test_any_picture_keeps_its_shape_and_stays_finite(
    seed: int, channels: int, operations: int, magnitude: float, spread: float, offset: float
) -> None:
    image = drawn(seed, channels, offset=offset)
    found = randaugment(image, operations, magnitude, spread, np.random.default_rng(seed))
    assert found.shape == image.shape
    assert found.dtype == np.float32
    assert np.isfinite(found).all()
    assert np.array_equal(found, randaugment(image, operations, magnitude, spread, np.random.default_rng(seed)))


def test_strengths_are_drawn_around_the_magnitude_within_the_scale(monkeypatch: pytest.MonkeyPatch) -> None:
    found: list[float] = []

    def noted(image: np.ndarray, strength: float, generator: np.random.Generator) -> np.ndarray:
        found.append(30 * strength)
        return image

    monkeypatch.setattr("abbe.data.randaugment.GREY", [noted])
    monkeypatch.setattr("abbe.data.randaugment.GEOMETRY", [])
    randaugment(drawn(0, 1), 3, 9, 0, np.random.default_rng(0))
    assert found == [9, 9, 9]
    randaugment(drawn(0, 1), 4000, 27, 1.5, np.random.default_rng(0))
    assert max(found) == 30
    assert np.median(found[3:]) == pytest.approx(27, abs=0.1)
    assert np.quantile(found[3:], 0.159) == pytest.approx(27 - 1.5, abs=0.15)


@pytest.mark.parametrize("operation", OPERATIONS, ids=lambda operation: operation.__name__)
def test_operations_without_strength_change_nothing_but_the_levels(operation) -> None:
    image = drawn(0, 3)
    found = operation(image, 0.0, np.random.default_rng(0))
    loose = operation.__name__ in ("_equalize", "_auto_contrast")  # these have no strength
    assert np.allclose(found, image, atol=0.5 if loose else 1 / 255)


@pytest.mark.parametrize("operation", OPERATIONS, ids=lambda operation: operation.__name__)
def test_operations_follow_the_range_of_the_picture(operation) -> None:
    """What is done to grey values does not depend on their unit."""
    image = drawn(1, 3)
    found = operation(image, 0.6, np.random.default_rng(0))
    scaled = operation(image * 1000 + 50, 0.6, np.random.default_rng(0))
    assert np.allclose(scaled, found * 1000 + 50, atol=8 if "posterize" in operation.__name__ else 2) or (
        np.mean(np.abs(scaled - found * 1000 - 50) > 8) < 0.02  # a value at a threshold may fall to either side
    )


def test_constant_pictures_are_taken() -> None:
    image = np.full((3, 9, 9), 0.5, np.float32)
    for operation in OPERATIONS:
        assert np.isfinite(operation(image, 1.0, np.random.default_rng(0))).all()
    assert np.isfinite(erase(image, np.random.default_rng(0))).all()


@settings(deadline=None, max_examples=40)
@given(st.integers(0, 999), st.integers(1, 30))
def test_erasing_changes_one_rectangle_within_the_range(seed: int, side: int) -> None:
    image = drawn(seed, 2, side)
    found = erase(image, np.random.default_rng(seed))
    rows, columns = np.nonzero((found != image).any(axis=0))
    assert len(rows)
    area = (np.ptp(rows) + 1) * (np.ptp(columns) + 1)
    assert (found != image).any(axis=0).sum() == area  # nothing but the rectangle, and all of it
    assert image.min() <= found.min() <= found.max() <= image.max() + 1e-6


def test_labels_stay_on_their_pixels() -> None:
    labels = np.zeros((32, 32), np.int32)
    labels[8:20, 8:20] = 1
    sample = Sample(labels[None].astype(np.float32), labels)
    off = dict.fromkeys(("affine", "elastic", "stain", "curve", "gamma", "illumination", "blur", "noise"), 0.0)
    config = AugmentConfig(
        **{f"{name}_probability": value for name, value in off.items()},
        contrast_probability=0.0,
        randaugment_operations=1,
        randaugment_magnitude=30,
    )
    for seed in range(12):
        crop = augment(sample, config, np.random.default_rng(seed), (32, 32))
        # a rotation or a shift of a third would leave less than half of this
        assert abs(np.corrcoef(crop.image.ravel(), crop.labels.ravel())[0, 1]) > 0.9
