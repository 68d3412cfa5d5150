"""Workers give what one process gives, also when one of them dies."""

from __future__ import annotations

import gc
import logging
import os
import re
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import distributed
import numpy as np
import pandas as pd
import psutil
import pytest
import tifffile
from scipy import ndimage

from abbe.batch import Outputs
from abbe.cluster import Cluster
from abbe.errors import AbbeError
from abbe.folders import segment_files
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


# --- what goes wrong ----------------------------------------------------------------------------------------------


def slow_power() -> Callable[[int, int], int]:
    """Make a function that travels by value, for workers cannot import this file."""

    def power(exponent: int, number: int) -> int:
        time.sleep(0.05)
        return number**exponent

    return power


def test_what_was_sent_is_sent_again_when_all_workers_die_at_once(cluster: Cluster) -> None:
    results, killed = [], False
    for result in cluster.map(slow_power(), [2], range(60)):
        results.append(result)
        if len(results) == 5 and not killed:
            killed = True
            for process in cluster.client.run(os.getpid).values():
                os.kill(process, signal.SIGKILL)
    assert results == [number**2 for number in range(60)]


def test_workers_warn_of_no_task_that_was_cancelled(cluster: Cluster) -> None:
    def level() -> int:
        return logging.getLogger("distributed.worker.state_machine").getEffectiveLevel()

    assert set(cluster.client.run(level).values()) == {logging.ERROR}


def test_an_image_that_kills_its_workers_is_told_and_the_others_are_done(cluster: Cluster) -> None:
    told: list[str] = []

    def deadly(number: int) -> int:
        if number == 3:
            os._exit(1)
        return number

    def lost(item: int, error: AbbeError) -> int:
        told.append(str(error))
        return -item

    assert list(cluster.map(deadly, [], range(6), lost)) == [0, 1, 2, -3, 4, 5]
    (sentence,) = told
    assert re.fullmatch(r"3: worker after worker died over it, .* fewer .* --workers, or smaller tiles .*", sentence)


@pytest.fixture
def scheduler() -> Iterator[tuple[str, list[subprocess.Popen]]]:
    """A scheduler in a process of its own, and a worker that nobody starts again."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        address = f"tcp://127.0.0.1:{free.getsockname()[1]}"
    command = [sys.executable, "-m", "distributed.cli.dask_scheduler", "--host", address, "--no-dashboard"]
    processes = [subprocess.Popen(command, stderr=subprocess.DEVNULL)]
    command = [sys.executable, "-m", "distributed.cli.dask_worker", address, "--no-nanny", "--no-dashboard"]
    processes.append(subprocess.Popen([*command, "--nthreads", "1"], stderr=subprocess.DEVNULL))
    yield address, processes
    for process in processes:
        process.kill()
        process.wait()


def test_workers_and_schedulers_that_are_gone_are_told(scheduler: tuple[str, list[subprocess.Popen]]) -> None:
    address, (dispatcher, worker) = scheduler
    with Cluster(address=address, timeout=30, patience=1) as cluster:
        results = cluster.map(slow_power(), [2], range(1000))
        assert [next(results) for _ in range(3)] == [0, 1, 4]
        worker.kill()
        with pytest.raises(AbbeError, match=r"all workers are gone, and none has come for 1 s; start some"):
            list(results)
        dispatcher.kill()
        dispatcher.wait()
        with pytest.raises(AbbeError, match="connection to the Dask scheduler is lost"):
            list(cluster.map(slow_power(), [2], range(10)))


@pytest.mark.parametrize(
    "address",
    [
        "tcp://127.0.0.1:1",
        "nothing.invalid:1",
        "tcp://nothing.invalid:1",
        "tcp://127.0.0.1:x",
        "tls://127.0.0.1:1",
        "http://a:1",
        "nonsense",
        "",
    ],
)
def test_a_scheduler_that_is_not_there_is_told_and_nothing_is_left_open(address: str) -> None:
    before = open_clients()
    with pytest.raises(AbbeError, match=re.escape(address) + r": no Dask scheduler answers there .*tcp://host:8786"):
        Cluster(address=address, timeout=1)
    assert open_clients() == before


def open_clients() -> list[int]:
    """Connections that are not closed; the garbage collector would have to do it, and can wait for ever over that."""
    clients = [thing for thing in gc.get_objects() if issubclass(type(thing), distributed.Client)]
    return [id(client) for client in clients if client.status != "closed"]


def test_a_connection_that_fails_to_close_is_closed_again(scheduler: tuple[str, list[subprocess.Popen]]) -> None:
    """As it does where it is about to give up a scheduler that is gone."""
    with Cluster(address=scheduler[0], timeout=30) as cluster:
        pool, tries = cluster.client.rpc, []
        close = pool.close

        async def fail_once() -> None:
            tries.append(len(tries))
            if len(tries) == 1:
                raise RuntimeError("Cannot change state of expiring Timeout")
            await close()

        pool.close = fail_once
    assert tries == [0, 1]
    assert cluster.client.status == "closed"


@pytest.mark.parametrize("number", [0, -1, 100_000])
def test_a_number_of_workers_that_makes_no_sense_is_told(number: int) -> None:
    with pytest.raises(AbbeError, match=f"--workers {number}: "):
        Cluster(number)
    with pytest.raises(AbbeError, match="either --workers or --cluster"):
        Cluster(2, "tcp://127.0.0.1:1")


def test_no_process_is_left_when_there_is_no_connection(monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*_: object, **__: object) -> None:
        raise OSError("no connection")

    before = children()
    monkeypatch.setattr(distributed.Client, "start", refuse)
    with pytest.raises(AbbeError, match="no connection"):
        Cluster(1)
    assert children() - before == set()


def children() -> set[int]:
    """Workers that this process has."""
    processes = psutil.Process().children(recursive=True)
    return {process.pid for process in processes if "spawn_main" in "".join(process.cmdline())}


def test_ctrl_c_ends_the_workers_and_is_told_in_one_line(field: Path, bright_file: Path, tmp_path: Path) -> None:
    large = tmp_path / "large.tif"  # there has to be work left when the key is pressed, also on a busy machine
    tifffile.imwrite(large, np.tile(tifffile.imread(field), (6, 6)))
    hears = "import signal; signal.signal(signal.SIGINT, signal.default_int_handler)"  # unlike a job of "command &"
    code = f"{hears}; from abbe.cli.main import main; main()"
    words = ["segment", str(large), "--model", str(bright_file), "--out", str(tmp_path / "out"), "--workers", "1"]
    options = ["--tile", "96", "--diameter", "20", "--device", "cpu", "--precision", "exact"]
    command = [sys.executable, "-c", code, *words, *options]
    process = subprocess.Popen(command, stderr=subprocess.PIPE, text=True, start_new_session=True)
    while not list(tmp_path.rglob("*.tile")):
        assert process.poll() is None
        time.sleep(0.1)
    others = psutil.Process(process.pid).children(recursive=True)
    os.killpg(process.pid, signal.SIGINT)  # as a terminal does
    _, printed = process.communicate(timeout=60)
    assert process.returncode == 130
    first, *others_said, last = printed.splitlines()
    assert re.fullmatch(r"1 worker; watch them at http://\S+/status", first)
    assert [line for line in others_said if "tiles of" not in line] == []  # that is what lies ahead
    assert last == "stopped; what is finished stays, and the same command goes on"
    assert psutil.wait_procs(others, timeout=10)[1] == []
