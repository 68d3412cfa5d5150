"""Images as OME-TIFF: what is written is read back."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from abbe.data.read import read
from abbe.data.write_image import write_image


@pytest.mark.parametrize(("axes", "step"), [("TYX", 2.5), ("TCZYX", 0.04), ("TYX", None), ("ZYX", 3.0)])
def test_what_is_known_of_an_image_comes_back(tmp_path: Path, axes: str, step: float | None) -> None:
    shape = tuple({"T": 4, "C": 2, "Z": 3, "Y": 20, "X": 24}[axis] for axis in axes)
    pixels = np.random.default_rng(0).integers(0, 60000, shape).astype(np.uint16)
    sizes = {"x": 0.2, "y": 0.2} | ({"z": 1.5} if "Z" in axes else {})
    names = ("dna", "actin") if "C" in axes else ()
    write_image(tmp_path / "a.tif", pixels, axes, sizes, names, time_step=step)
    found = read(tmp_path / "a.tif")
    np.testing.assert_array_equal(found.data[:], pixels)
    assert (found.axes, found.pixel_size, found.channels) == (axes, sizes, names)
    assert found.time_step == (step if "T" in axes else None)
