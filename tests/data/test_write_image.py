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


@pytest.mark.parametrize("channel", [None, 1])
def test_other_facts_of_an_ome_tiff_come_back(tmp_path: Path, channel: int | None) -> None:
    stated = [{"Color": "-16776961", "EmissionWavelength": "525.0", "EmissionWavelengthUnit": "nm"}, {"Fluor": "DAPI"}]
    facts = {"Name": "field 7 <&>", "Description": "fixed, \u00b5", "AcquisitionDate": "2020-01-02T03:04:05"}
    pixels = np.zeros((2, 20, 24), np.uint16)
    write_image(tmp_path / "a.tif", pixels, "CYX", {}, ("dna", "actin"), facts=facts | {"Channel": stated})
    found = read(tmp_path / "a.tif")
    assert found.facts == facts | {"Channel": stated}
    found = found if channel is None else found.select(channel=channel)
    write_image(tmp_path / "b.tif", found.data[:], found.axes, {}, found.channels, facts=found.facts)
    again = read(tmp_path / "b.tif")
    assert again.facts == facts | {"Channel": stated if channel is None else stated[1:]}
    assert again.channels == ("dna", "actin") if channel is None else ("actin",)


def test_facts_that_fit_no_channels_are_left_out(tmp_path: Path) -> None:
    write_image(tmp_path / "a.tif", np.zeros((3, 20, 24), np.uint8), "CYX", {}, facts={"Channel": [{"Color": "1"}]})
    assert "Channel" not in read(tmp_path / "a.tif").facts
