"""Properties of what is said before a run."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from pathlib import Path

import numpy as np
import PIL.Image
import pytest
import tifffile

from abbe import planning
from abbe.folders import plan_files
from abbe.model import Model
from abbe.settings import SegmentSettings

Draw = Callable[..., tuple[np.ndarray, np.ndarray]]
PLAIN = SegmentSettings(device="cpu", precision="exact", diameter=20)
TILED = dataclasses.replace(PLAIN, tile=96)


def test_a_plan_counts_what_the_run_does(bright: Model, discs: Draw) -> None:
    image, _ = discs()
    parts: list[float] = []
    plan = bright.plan(image, TILED)
    bright.predict(image, TILED, progress=parts.append)
    assert plan.tiles == len(parts) > 1
    assert (plan.extents, plan.frames) == (image.shape, 1)
    assert bright.plan(image, PLAIN).tiles == 1


def test_frames_are_counted(bright: Model, discs: Draw, tmp_path: Path) -> None:
    tifffile.imwrite(tmp_path / "a.ome.tif", np.stack([discs()[0]] * 3), metadata={"axes": "TYX"})
    plan = bright.plan(tmp_path / "a.ome.tif", dataclasses.replace(PLAIN, time="all"))
    assert (plan.frames, plan.tiles) == (3, 3)
    assert "3 frames of 96 x 112 px" in str(plan)


def test_larger_tiles_need_more_memory_and_half_numbers_less(bright: Model) -> None:
    image = np.zeros((3000, 3000), np.uint16)
    needs = [bright.plan(image, dataclasses.replace(PLAIN, tile=tile)).memory for tile in (256, 1024, 2048)]
    assert needs == sorted(needs)
    assert needs[0] < needs[2]


def test_short_memory_is_said_with_a_tile_that_fits(bright: Model, monkeypatch: pytest.MonkeyPatch) -> None:
    image = np.zeros((6000, 6000), np.uint16)
    settings = dataclasses.replace(PLAIN, tile=4096)
    enough = bright.plan(image, dataclasses.replace(PLAIN, tile=256)).memory
    monkeypatch.setattr(planning, "available_memory", lambda: enough)
    plan = bright.plan(image, settings)
    assert plan.fitting is not None
    assert 256 <= plan.fitting < 4096
    assert f"free: --tile {plan.fitting} would fit" in str(plan)
    assert bright.plan(image, dataclasses.replace(PLAIN, tile=plan.fitting)).memory <= enough
    monkeypatch.setattr(planning, "available_memory", lambda: 2**20)
    assert "no tile is small enough" in str(bright.plan(image, settings))
    monkeypatch.setattr(planning, "available_memory", lambda: None)
    assert "free" not in str(bright.plan(image, settings))


def test_what_grows_with_an_image_is_counted(bright: Model) -> None:
    """Rows of objects, rows of tiles that wait, bands of a mask; labels until they go to the disk."""
    settings = dataclasses.replace(PLAIN, tile=1024)
    shapes = ((1000, 1000), (2000, 2000), (4000, 4000), (30_000, 30_000), (90_000, 10_000), (30_000, 60_000))
    fields = [np.broadcast_to(np.uint16(0), shape) for shape in shapes]
    small, medium, large, larger, narrow, largest = (bright.plan(field, settings).memory for field in fields)
    assert medium - small > 4 * (2000**2 - 1000**2)
    assert large < narrow < larger < largest < larger + 2**30


def test_what_reading_keeps_is_counted(bright: Model, tmp_path: Path) -> None:
    image = np.zeros((3000, 3000), np.uint16)
    tifffile.imwrite(tmp_path / "plain.tif", image)
    tifffile.imwrite(tmp_path / "tiles.tif", image, tile=(256, 256), compression="zlib")
    PIL.Image.fromarray(image).save(tmp_path / "whole.png")
    plain, *others = (bright.plan(tmp_path / name, PLAIN).memory for name in ("plain.tif", "tiles.tif", "whole.png"))
    assert [other - plain for other in others] == [image.nbytes, image.nbytes]
    assert bright.plan(image, PLAIN).memory == plain


def test_long_runs_are_announced_and_short_ones_are_not(bright: Model, discs: Draw) -> None:
    told: list[str] = []
    bright.predict(discs()[0], PLAIN, tell=told.append)
    assert told == []
    bright.predict(np.zeros((500, 500), np.uint16), TILED, tell=told.append)
    assert len(told) == 1
    assert "tiles of 96 x 96" in told[0]


def test_labels_that_do_not_fit_into_memory_are_said_to_need_disk(
    bright: Model, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(planning, "IN_MEMORY", 100)
    plan = bright.plan(np.zeros((200, 300), np.uint16), PLAIN)
    assert 0 < plan.disk < 4 * 200 * 300
    assert "of disk" in str(plan)
    monkeypatch.setattr(planning, "IN_MEMORY", 200 * 300)
    assert bright.plan(np.zeros((200, 300), np.uint16), PLAIN).disk == 0


def test_a_dry_run_tells_every_image_and_writes_nothing(bright_file: Path, discs: Draw, tmp_path: Path) -> None:
    tifffile.imwrite(tmp_path / "a.tif", discs()[0])
    (tmp_path / "b.tif").write_text("no image")
    told: list[str] = []
    assert plan_files([tmp_path], bright_file, PLAIN, tell=told.append) == 1
    assert len(told) == 2
    assert "would fail: b.tif" in told[1]
    assert sorted(path.name for path in tmp_path.iterdir()) == ["a.tif", "b.tif"]


def test_free_memory_is_a_number_of_bytes() -> None:
    free = planning.available_memory()
    assert free is None or 2**20 < free < 2**50
