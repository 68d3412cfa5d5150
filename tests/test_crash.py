"""Killed at any moment, the same command gives what it would have given, and does only the tiles in flight again."""

from __future__ import annotations

import os
import random
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
import tifffile
from scipy import ndimage

SCRIPT = """
import sys, time
from pathlib import Path
import torch
torch.set_num_threads(1)
from abbe import segmentation
from abbe.data import stored_labels, write_zarr
from abbe.folders import segment_files
from abbe.batch import Outputs
from abbe.settings import SegmentSettings
from abbe.tiling.store import TileStore

save = TileStore.save
def slow(self, number, part):
    time.sleep(0.01)
    save(self, number, part)
    print(number, flush=True)
TileStore.save = slow
if sys.argv[4] == "zarr":  # as of a large image: on the disk, in chunks that become the result
    segmentation.IN_MEMORY = 0
    stored_labels.CHUNK = write_zarr.CHUNK = 64
    stored_labels.OPEN_BYTES = 2**16
    write_zarr.smallest_unsigned = lambda largest: "uint32"
settings = SegmentSettings(device="cpu", precision="exact", diameter=20, tile=96)
segment_files([sys.argv[1]], Outputs(Path(sys.argv[2]), format=sys.argv[4]), sys.argv[3], settings)
"""


@pytest.fixture(scope="module")
def field(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A file of about a hundred tiles."""
    rough = np.random.default_rng(0).random((500, 450))
    path = tmp_path_factory.mktemp("field") / "field.tif"
    tifffile.imwrite(path, (ndimage.gaussian_filter(rough, 5) * 60000).astype(np.uint16))
    return path


def start(field: Path, out: Path, model: Path, kind: str = "tiff") -> subprocess.Popen[str]:
    command = [sys.executable, "-c", SCRIPT, str(field), str(out), str(model), kind]
    return subprocess.Popen(command, stdout=subprocess.PIPE, text=True)


def finish(field: Path, out: Path, model: Path, kind: str = "tiff") -> list[int]:
    """Run to the end; gives the tiles that were computed."""
    process = start(field, out, model, kind)
    printed, _ = process.communicate(timeout=600)
    assert process.returncode == 0
    return [int(line) for line in printed.split()]


def outputs(out: Path) -> dict[str, bytes]:
    files = [out / "objects.csv", *out.glob("field_labels.tif"), *out.glob("field_labels.ome.zarr/**/*")]
    return {str(path.relative_to(out)): path.read_bytes() for path in files if path.is_file()}


@pytest.mark.parametrize("kills", [4, pytest.param(24, marks=pytest.mark.slow)])
@pytest.mark.parametrize("kind", ["tiff", "zarr"])
def test_killed_and_started_again_gives_equal_bytes(
    field: Path, bright_file: Path, tmp_path: Path, kind: str, kills: int
) -> None:
    whole = finish(field, tmp_path / "whole", bright_file, kind)
    assert len(whole) > 60
    chance, computed, out = random.Random(0), [], tmp_path / "killed"
    for _ in range(kills):
        process = start(field, out, bright_file, kind)
        assert process.stdout is not None
        for _ in range(chance.randrange(len(whole) // kills) + 1):
            if line := process.stdout.readline():
                computed.append(int(line))
        time.sleep(chance.random() * 0.02)
        os.kill(process.pid, signal.SIGKILL)
        computed += [int(line) for line in process.communicate()[0].split()]
    computed += finish(field, out, bright_file, kind)
    assert outputs(out) == outputs(tmp_path / "whole")
    assert len(outputs(out)) == 2 if kind == "tiff" else len(outputs(out)) > 60
    assert set(computed) == set(whole)
    assert len(computed) <= len(whole) + kills  # one tile in flight at each kill
    assert not list((out / ".abbe").rglob("*.tile"))


def test_a_damaged_tile_is_done_again(field: Path, bright_file: Path, tmp_path: Path) -> None:
    whole = finish(field, tmp_path / "whole", bright_file)
    out = tmp_path / "killed"
    process = start(field, out, bright_file)
    assert process.stdout is not None
    for _ in range(20):
        process.stdout.readline()
    os.kill(process.pid, signal.SIGKILL)
    process.wait()
    path = sorted((out / ".abbe").rglob("*.tile"))[3]
    path.write_bytes(path.read_bytes()[:-1] + b"?")
    computed = finish(field, out, bright_file)
    assert 3 in computed
    assert len(computed) < len(whole)
    assert outputs(out) == outputs(tmp_path / "whole")
