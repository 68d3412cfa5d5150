"""Big images and many processes: time per megapixel, workers against plain processes, ten thousand tiles to schedule.

    python benchmarks/big_images.py flat       [--sides 4096 16384]
    python benchmarks/big_images.py workers    [--side 4096] [--repeats 3]
    python benchmarks/big_images.py scheduling [--tiles 10000] [--workers 64] [--seconds 0.5]

Images are generated. Memory is the business of ``segment_nuclei.py memory``.
"""

from __future__ import annotations

import argparse
import multiprocessing
import os
import statistics
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from abbe.cluster import Cluster, fill_tile
from abbe.data.select import select
from abbe.job import Job
from abbe.model import load_model
from abbe.settings import SegmentSettings
from abbe.tiling.store import TileStore
from segment_nuclei import write_field
from tables import machine, print_table

SETTINGS = SegmentSettings(device="cpu", diameter=24)
"""The size is told, so that only tiles are timed."""


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    verbs = parser.add_subparsers(required=True)
    for verb in (flat, workers, scheduling):
        verbs.add_parser(verb.__name__, help=verb.__doc__).set_defaults(verb=verb)
    verbs.choices["flat"].add_argument("--sides", type=int, nargs="+", default=[4096, 16384])
    verbs.choices["workers"].add_argument("--side", type=int, default=4096)
    verbs.choices["workers"].add_argument("--repeats", type=int, default=3)
    verbs.choices["scheduling"].add_argument("--tiles", type=int, default=10_000)
    verbs.choices["scheduling"].add_argument("--workers", type=int, default=64)
    verbs.choices["scheduling"].add_argument("--seconds", type=float, default=0.5, help="that a tile sleeps")
    arguments = parser.parse_args()
    print(machine())
    arguments.verb(arguments)


# ------------------------------------------------------------------------------------------------------ one process


def flat(arguments: argparse.Namespace) -> None:
    """Time the segmentation of fields of several sizes, tile store included."""
    model, rows = load_model("nuclei"), []
    for side in arguments.sides:
        with tempfile.TemporaryDirectory() as name:
            field, work = Path(name) / "field.tif", Path(name) / "work"
            write_field(field, side)
            work.mkdir()
            start = time.perf_counter()
            result = model.predict(field, SETTINGS, work=work)
            seconds = time.perf_counter() - start
            rows.append([side, seconds, seconds / (side * side / 1e6), int(result.labels.max())])
    first = rows[0][2]
    cells = [[f"{side}²", f"{s:.1f}", f"{each:.3f}", f"{each / first:.2f}", str(n)] for side, s, each, n in rows]
    print_table("Time per megapixel", ["field", "s", "s/Mpx", "× the first", "objects"], cells)


# ------------------------------------------------------------------------------------------------ several processes


def make_job(field: Path) -> Job:
    model = load_model("nuclei")
    return model.job(select(field, SETTINGS), SETTINGS)


def fill_share(field: Path, store: TileStore, share: Sequence[int], gate: Any) -> None:
    """Do some tiles in a plain process of one thread, once all processes are ready."""
    job = make_job(field)
    fill_tile(job.predictor, job, store, share[0])
    gate.wait()
    for number in share:
        store.save(number, job.part(number))
    gate.wait()


def plain(field: Path, folder: Path, count: int) -> float:
    """Time ``count`` plain processes that share the tiles."""
    os.environ["OMP_NUM_THREADS"] = "1"
    context = multiprocessing.get_context("spawn")
    numbers, store = range(len(make_job(field).tiles)), TileStore(folder, {})
    gate = context.Barrier(count + 1)
    shares = [list(numbers[i::count]) for i in range(count)]
    processes = [context.Process(target=fill_share, args=(field, store, share, gate)) for share in shares]
    for process in processes:
        process.start()
    gate.wait()
    start = time.perf_counter()
    gate.wait()
    seconds = time.perf_counter() - start
    for process in processes:
        process.join()
    return seconds


def on_workers(field: Path, folder: Path, count: int, cluster: Cluster) -> float:
    """Time Dask workers of one thread each, after each has done a tile."""
    job, store = make_job(field), TileStore(folder, {})
    numbers = range(len(job.tiles))
    list(cluster.fill(job, store, list(numbers[:count])))
    start = time.perf_counter()
    list(cluster.fill(job, store, list(numbers)))
    return time.perf_counter() - start


def workers(arguments: argparse.Namespace) -> None:
    """Compare two Dask workers with two plain processes, each of one thread, in turn."""
    times: dict[str, list[float]] = {"one process": [], "two processes": [], "two workers": []}
    with tempfile.TemporaryDirectory() as name, Cluster(2) as cluster:
        field = Path(name) / "field.tif"
        write_field(field, arguments.side)
        cluster.client.run(_one_thread)
        for number in range(arguments.repeats):
            folder = Path(name) / str(number)
            times["one process"].append(plain(field, folder / "one", 1))
            times["two processes"].append(plain(field, folder / "two", 2))
            times["two workers"].append(on_workers(field, folder / "dask", 2, cluster))
    alone = statistics.median(times["one process"])
    medians = {name: statistics.median(seconds) for name, seconds in times.items()}
    rows = [
        [name, f"{s:.1f}", f"{alone / s:.2f}", f"{medians['two processes'] / s:.2f}"] for name, s in medians.items()
    ]
    header = ["way", "s", "speed-up", "of two processes'"]
    print_table(f"Tiles of a field of {arguments.side}², one thread each, median of {arguments.repeats}", header, rows)


def _one_thread() -> None:
    import torch

    torch.set_num_threads(1)


# --------------------------------------------------------------------------------------------------------- scheduling


def sleep(seconds: float, number: int) -> int:
    time.sleep(seconds)
    return number


def scheduling(arguments: argparse.Namespace) -> None:
    """Schedule tiles that sleep on more workers than there are cores: what is lost is the scheduler's."""
    with Cluster(arguments.workers) as cluster:
        list(cluster.map(sleep, [0.0], range(10 * cluster.size)))
        start = time.perf_counter()
        numbers = list(cluster.map(sleep, [arguments.seconds], range(arguments.tiles)))
        seconds = time.perf_counter() - start
        assert numbers == list(range(arguments.tiles))
        ideal = arguments.tiles * arguments.seconds / cluster.size
    row = [str(arguments.tiles), str(arguments.workers), f"{seconds:.1f}", f"{ideal:.1f}", f"{seconds / ideal - 1:.1%}",
           f"{arguments.tiles / seconds:.0f}"]  # fmt: skip
    header = ["tiles", "workers", "s", "without overhead s", "overhead", "tiles/s"]
    print_table(f"Tiles that sleep {arguments.seconds:g} s", header, [row])


if __name__ == "__main__":
    main()
