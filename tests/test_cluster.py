"""Workers give what one process gives, also when one of them dies."""

from __future__ import annotations

import os
import signal
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import tifffile
from scipy import ndimage

from abbe.api import segment_files
from abbe.batch import Outputs
from abbe.cluster import Cluster
from abbe.errors import AbbeError
from abbe.model import Model
from abbe.settings import SegmentSettings

SETTINGS = SegmentSettings(device="cpu", precision="exact", diameter=20, tile=96)


@pytest.fixture(scope="module")
def cluster() -> Iterator[Cluster]:
    with Cluster(workers=2) as started:
        yield started


@pytest.fixture(scope="module")
def field(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A file of several hundred tiles, with regions that many of them cut."""
    rough = np.random.default_rng(0).random((900, 800))
    path = tmp_path_factory.mktemp("field") / "field.tif"
    tifffile.imwrite(path, (ndimage.gaussian_filter(rough, 5) * 60000).astype(np.uint16), tile=(128, 128))
    return path


def test_tiles_of_workers_are_those_of_one_process(
    cluster: Cluster, bright: Model, field: Path, tmp_path: Path
) -> None:
    here = bright.predict(field, SETTINGS)
    there = bright.predict(field, SETTINGS, work=tmp_path, fill=cluster.fill)
    assert here.labels.max() > 100
    assert np.array_equal(there.labels, here.labels)
    assert there.objects.equals(here.objects)


def test_a_worker_that_is_killed_costs_its_tiles_only(
    cluster: Cluster, bright: Model, field: Path, tmp_path: Path
) -> None:
    workers = cluster.client.run(os.getpid)
    killed: list[int] = []

    def progress(done: float) -> None:
        if done > 0.05 and not killed:
            killed.append(next(iter(workers.values())))
            os.kill(killed[0], signal.SIGKILL)

    there = bright.predict(field, SETTINGS, progress=progress, work=tmp_path, fill=cluster.fill)
    assert killed
    assert np.array_equal(there.labels, bright.predict(field, SETTINGS).labels)


def test_a_folder_of_small_images_is_shared_out(
    cluster: Cluster, bright_file: Path, field: Path, tmp_path: Path, discs: Callable[..., tuple[np.ndarray, ...]]
) -> None:
    folder = tmp_path / "plate"
    folder.mkdir()
    for number in range(6):
        tifffile.imwrite(folder / f"{number}.tif", discs((90, 90), number=3 + number, seed=number)[0])
    (folder / "broken.tif").write_bytes(b"II*\0")
    (folder / "large.tif").symlink_to(field)
    told: list[str] = []
    results = {}
    for name, others in (("here", None), ("there", cluster)):
        outputs = Outputs(tmp_path / name)
        results[name] = segment_files([folder], outputs, bright_file, SETTINGS, tell=told.append, cluster=others)
    assert len(results["there"].failures) == len(results["here"].failures) == 1
    for table in ("images.csv", "objects.csv"):
        here, there = (pd.read_csv(tmp_path / name / table) for name in ("here", "there"))
        pd.testing.assert_frame_equal(
            there.drop(columns="seconds", errors="ignore"), here.drop(columns="seconds", errors="ignore")
        )
    again = segment_files([folder], Outputs(tmp_path / "there"), bright_file, SETTINGS, cluster=cluster)
    assert again.skipped == 7
    assert not list((tmp_path / "there" / ".abbe").rglob("*.tile"))


def test_a_scheduler_that_is_not_there_is_told() -> None:
    with pytest.raises(AbbeError, match=r"tcp://127\.0\.0\.1:1: no Dask scheduler answers there"):
        Cluster(address="tcp://127.0.0.1:1", timeout=1)
