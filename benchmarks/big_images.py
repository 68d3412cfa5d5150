"""Big images and many processes: time and memory by size, beside StarDist's, and what workers and schedulers cost.

    python benchmarks/big_images.py flat       [--sides 4096 8192 16384] [--huge]
    python benchmarks/big_images.py stardist   --peers-python peers/bin/python [--side 8192] [--blocks 4096 2048]
    python benchmarks/big_images.py workers    [--side 4096] [--repeats 3]
    python benchmarks/big_images.py scheduling [--tiles 10000] [--workers 64] [--seconds 0.5]

Images are generated. Memory is that of the tree of processes without file-backed pages; it is read from /proc, which
only Linux has.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import multiprocessing
import os
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import tifffile

from abbe.cluster import Cluster, fill_tile
from abbe.data.select import select
from abbe.data.synthetic import LazyField
from abbe.job import Job
from abbe.model import load_model
from abbe.settings import SegmentSettings
from abbe.tiling.store import TileStore
from odd_files import bright_model
from peak_memory import Run, watch
from programs import ALLOCATOR
from segment_nuclei import ROWS, write_field
from tables import machine, print_table

SETTINGS = SegmentSettings(device="cpu", diameter=24)
"""The size is told, so that only tiles are timed."""
LIMIT = 1.6
"""GiB that no size may pass."""
HUGE = 65_536
PER_HOST = 16
"""Workers that one process hosts where they only sleep; each process holds some 400 MB of libraries."""


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    verbs = parser.add_subparsers(required=True)
    for verb in (flat, stardist, workers, scheduling):
        verbs.add_parser(verb.__name__, help=verb.__doc__).set_defaults(verb=verb)
    verbs.choices["flat"].add_argument("--sides", type=int, nargs="*", default=[4096, 8192, 16384])
    verbs.choices["flat"].add_argument("--huge", type=int, nargs="?", const=HUGE, help=f"a lazy field of {HUGE}² too")
    lazily = verbs.add_parser("lazily", help=segment_lazily.__doc__)
    lazily.add_argument("side", type=int)
    lazily.add_argument("folder", type=Path)
    lazily.set_defaults(verb=segment_lazily)
    verbs.choices["stardist"].add_argument("--side", type=int, default=8192)
    verbs.choices["stardist"].add_argument("--peers-python", type=Path, required=True)
    verbs.choices["stardist"].add_argument("--blocks", type=int, nargs="+", default=[4096, 2048])
    verbs.choices["stardist"].add_argument("--repeats", type=int, default=1)
    verbs.choices["workers"].add_argument("--side", type=int, default=4096)
    verbs.choices["workers"].add_argument("--repeats", type=int, default=3)
    verbs.choices["scheduling"].add_argument("--tiles", type=int, default=10_000)
    verbs.choices["scheduling"].add_argument("--workers", type=int, default=64)
    verbs.choices["scheduling"].add_argument("--seconds", type=float, default=0.5, help="that a tile sleeps")
    hosting = verbs.add_parser("host", help=host.__doc__)
    hosting.add_argument("address")
    hosting.add_argument("count", type=int)
    hosting.set_defaults(verb=host)
    arguments = parser.parse_args()
    if arguments.verb is not host:
        print(machine())
    arguments.verb(arguments)


# ------------------------------------------------------------------------------------------------------ one process


@dataclass(frozen=True)
class Measured:
    """What one program took for one image."""

    seconds: float
    """To labels."""
    run: Run
    """The whole process."""
    objects: int

    @property
    def gib(self) -> float:
        """Peak memory."""
        return self.run.demand / 2**30


def segmented(field: Path, folder: Path) -> Measured:
    """Watch ``abbe segment`` on a file: reading, all results and the report are in it."""
    code = "from abbe.cli.main import main; main()"
    options = ["--device", "cpu", "--diameter", str(SETTINGS.diameter)]
    run = watch([sys.executable, "-c", code, "segment", str(field), "--out", str(folder), *options])
    if run.exit_code:
        sys.exit(f"abbe segment failed with exit code {run.exit_code}")
    row = pd.read_csv(folder / "images.csv").iloc[0]
    return Measured(float(row["seconds"]), run, int(row["count"]))


def flat(arguments: argparse.Namespace) -> None:
    """Time ``abbe segment`` on fields of several sizes, and watch its memory."""
    found: list[tuple[int, str, Measured]] = []
    for side in arguments.sides:
        with tempfile.TemporaryDirectory() as name:
            write_field(Path(name) / "field.tif", side)
            found.append((side, "nuclei", segmented(Path(name) / "field.tif", Path(name) / "results")))
        print(f"{side}²: done in {found[-1][2].run.seconds:.0f} s", file=sys.stderr)
    if arguments.huge:
        found.append((arguments.huge, "smallest network, lazy field", watch_lazily(arguments.huge)))
    each = [measured.seconds / (side * side / 1e6) for side, _, measured in found]
    rows = [
        [f"{side}²", kind, f"{m.seconds:.1f}", f"{s:.3f}", f"{s / each[0]:.2f}" if kind == found[0][1] else "",
         f"{m.run.seconds:.0f}", f"{m.gib:.2f}", "yes" if m.gib <= LIMIT else "NO", str(m.objects)]
        for (side, kind, m), s in zip(found, each)
    ]  # fmt: skip
    header = ["field", "model", "to labels s", "s/Mpx", "× the first", "whole command s", "peak GiB",
              f"within {LIMIT} GiB", "objects"]  # fmt: skip
    print_table("Time per megapixel and memory by size", header, rows)


def watch_lazily(side: int) -> Measured:
    """Watch a process that segments a field which is made where it is read, with the smallest network."""
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        run = watch([sys.executable, __file__, "lazily", str(side), name])
        if run.exit_code:
            sys.exit(f"the lazy field failed with exit code {run.exit_code}")
        return Measured(run=run, **json.loads((folder / "lazy.json").read_text()))


def segment_lazily(arguments: argparse.Namespace) -> None:
    """Segment a lazy field in this process; its seconds hold the making of the field, too."""
    side, folder = arguments.side, arguments.folder
    model = load_model(bright_model(folder / "bright.safetensors"))
    field = LazyField((side, side), kept=side // ROWS + 8)
    start = time.perf_counter()
    result = model.predict(field, SETTINGS, work=folder, progress=teller(start))
    seconds = time.perf_counter() - start
    objects = max(int(result.labels[y : y + ROWS].max()) for y in range(0, side, ROWS))
    (folder / "lazy.json").write_text(json.dumps({"seconds": seconds, "objects": objects}))


def teller(start: float) -> Callable[[float], None]:
    """Make a progress that prints a line for every percent, with the time that is left."""
    told = 0

    def tell(done: float) -> None:
        nonlocal told
        if int(100 * done) > told:
            told, gone = int(100 * done), time.perf_counter() - start
            print(f"{told} % after {gone:.0f} s, some {gone / done - gone:.0f} s left", file=sys.stderr, flush=True)

    return tell


# ------------------------------------------------------------------------------------------------------ beside StarDist


def stardist(arguments: argparse.Namespace) -> None:
    """Segment one field with Abbe and with StarDist's ``predict_instances_big``, in turn."""
    found: dict[str, list[Measured]] = {}
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        write_truth(folder, arguments.side)
        for block in arguments.blocks:
            (folder / str(block)).mkdir()
            for file in ("image.npy", "labels.npy"):
                (folder / str(block) / file).symlink_to(folder / file)
            print(f"exact maps for blocks of {block}", file=sys.stderr)
            call_stardist(arguments.peers_python, "maps", folder / str(block), block)
        for number in range(arguments.repeats):
            measured = segmented(folder / "field.tif", folder / f"results{number}")
            found.setdefault("abbe", []).append(measured)
            for block in arguments.blocks:
                for how, settings in (("", {}), (", allocator setting", ALLOCATOR)):
                    run = call_stardist(arguments.peers_python, "run", folder / str(block), block, settings)
                    parts = json.loads((folder / str(block) / "stardist.json").read_text())
                    found.setdefault(f"stardist, blocks of {block}{how}", []).append(Measured(run=run, **parts))
            print(f"round {number + 1} of {arguments.repeats} done", file=sys.stderr)
    print_beside(found, arguments.side**2 / 1e6)


def call_stardist(python: Path, verb: str, folder: Path, block: int, settings: dict[str, str] | None = None) -> Run:
    """Run StarDist in its own interpreter, with variables in its environment."""
    script = Path(__file__).with_name("stardist_big.py")
    variables = [f"{name}={value}" for name, value in (settings or {}).items()]
    run = watch(["env", *variables, str(python), str(script), verb, str(folder), "--block", str(block)])
    if run.exit_code:
        sys.exit(f"stardist_big.py {verb} failed with exit code {run.exit_code}")
    return run


def write_truth(folder: Path, side: int) -> None:
    """Write a field as TIFF and as array, and its labels."""
    field = LazyField((side, side), kept=side // ROWS + 2)
    image = tifffile.memmap(folder / "field.tif", shape=(side, side), dtype=np.uint16)
    same = np.lib.format.open_memmap(folder / "image.npy", "w+", np.uint16, (side, side))
    labels = np.lib.format.open_memmap(folder / "labels.npy", "w+", np.int32, (side, side))
    for y in range(0, side, ROWS):
        stop = min(y + ROWS, side)
        image[y:stop] = same[y:stop] = field[y:stop]
        labels[y:stop] = field.labels_region(y, stop, 0, side)


def print_beside(found: dict[str, list[Measured]], megapixels: float) -> None:
    seconds = {name: statistics.median(one.seconds for one in runs) for name, runs in found.items()}
    memory = {name: statistics.median(one.gib for one in runs) for name, runs in found.items()}
    rows = [
        [name, f"{s:.1f}", f"{megapixels / s:.2f}", f"{s / seconds['abbe']:.2f}", f"{memory[name]:.2f}",
         f"{memory[name] / memory['abbe']:.2f}", str(found[name][0].objects)]
        for name, s in seconds.items()
    ]  # fmt: skip
    header = ["program", "to labels s", "Mpx/s", "Abbe is ×", "peak GiB", "× Abbe's", "objects"]
    print_table(f"{megapixels:.0f} megapixels to labels", header, rows)
    print("Abbe: the whole command's memory, tables and report too, and its time from opening the file to labels.")
    print("StarDist: random weights, exact maps after them; without import, building the network and a first call.")


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
    with sleepers(arguments.workers) as address, Cluster(address=address) as cluster:
        await_workers(cluster, arguments.workers)
        list(cluster.map(sleep, [0.0], range(10 * cluster.size)))
        start = time.perf_counter()
        numbers = list(cluster.map(sleep, [arguments.seconds], range(arguments.tiles)))
        seconds = time.perf_counter() - start
        assert numbers == list(range(arguments.tiles))
        ideal = arguments.tiles * arguments.seconds / arguments.workers
    row = [str(arguments.tiles), str(arguments.workers), f"{seconds:.1f}", f"{ideal:.1f}", f"{seconds / ideal - 1:.1%}",
           f"{arguments.tiles / seconds:.0f}"]  # fmt: skip
    header = ["tiles", "workers", "s", "without overhead s", "overhead", "tiles/s"]
    print_table(f"Tiles that sleep {arguments.seconds:g} s", header, [row])


@contextmanager
def sleepers(workers: int) -> Iterator[str]:
    """Give the address of a scheduler with workers of one thread; a process hosts several, for they only sleep."""
    from distributed import LocalCluster

    with LocalCluster(n_workers=0, dashboard_address=":0", host="127.0.0.1") as scheduler:
        address, hosts = scheduler.scheduler_address, -(-workers // PER_HOST)
        counts = [workers // hosts + (number < workers % hosts) for number in range(hosts)]
        started = [subprocess.Popen([sys.executable, __file__, "host", address, str(count)]) for count in counts]
        try:
            yield address
        finally:
            for process in started:
                process.terminate()
                process.wait()


def await_workers(cluster: Cluster, workers: int) -> None:
    while cluster.size < workers:
        time.sleep(0.5)


def host(arguments: argparse.Namespace) -> None:
    """Be several workers until the scheduler goes."""
    from distributed import Worker

    async def serve() -> None:
        workers = [await Worker(arguments.address, nthreads=1) for _ in range(arguments.count)]
        await asyncio.gather(*(worker.finished() for worker in workers))

    asyncio.run(serve())


if __name__ == "__main__":
    main()
