"""Noise2Void against CAREamics, each in a process of its own, in turns: what comes out, how long it takes, and in how
much memory. Verbs of ``restoration.py``.
"""

from __future__ import annotations

import argparse
import statistics
import sys
import tempfile
from collections.abc import Iterator, Sequence
from contextlib import ExitStack
from functools import partial
from itertools import zip_longest
from pathlib import Path

import numpy as np
import tifffile

from abbe.data.clean import find_clean_images
from abbe.data.datasets import whole_plane
from abbe.data.read import read
from abbe.data.synthetic import FluorescenceField, fluorescence_field
from abbe.metrics.images import psnr_fitted
from contender import Times, Worker, in_turns, ratio
from peak_memory import sampled
from tables import print_table

PRECISIONS = ("float32", "bfloat16")
"""Ways of Abbe's prediction."""
ALLOCATORS = {False: "default", True: "tuned"}
TEST_EVERY = 3
"""Of the sorted pairs each third is for the test alone."""
SMALL = 2
"""Planes of the stack that tiles are chosen on."""
BASELINE = 100
"""Of the camera, in grey values."""


# ------------------------------------------------------------------------------------------- quality and training


def w2s(arguments: argparse.Namespace) -> None:
    """Train Noise2Void on real noisy images with both libraries, and compare results and times."""
    with ExitStack() as stack:
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory()))
        clean = write_images(arguments.data, folder, arguments.images)
        workers = crew(stack, folder, arguments)
        trained = train_all(workers, arguments)
        sizes = ", ".join(f"{worker.name} {worker.do('parameters'):,}" for worker in workers)
        print(f"parameters: {sizes}; {len(clean)} test images that no training saw")
        print_quality(workers, folder, clean, arguments)
        print_training(workers, trained, arguments)
        print_prediction(workers, clean, arguments)


def write_images(data: Path, folder: Path, number: int | None) -> np.ndarray:
    """Write the noisy images for the workers; give the clean ones of the test, (N, Y, X)."""
    pairs = find_clean_images(data)[:number]
    test = pairs[TEST_EVERY - 1 :: TEST_EVERY]
    train = [pair for pair in pairs if pair not in test]
    for name, part in (("train", train), ("test", test)):
        np.save(folder / f"{name}.npy", np.stack([grey(pair.worse) for pair in part]))
    return np.stack([grey(pair.clean) for pair in test])


def grey(path: Path | None) -> np.ndarray:
    assert path is not None, "a clean image without a noisy one"
    return whole_plane(read(path))[0]


def crew(stack: ExitStack, folder: Path, arguments: argparse.Namespace) -> list[Worker]:
    """Start Abbe, and CAREamics with each of the allocators; what does not start is left out, and said."""
    wanted = [("abbe", Path(sys.executable), True)]
    if arguments.peers_python:
        wanted += [("careamics", arguments.peers_python, name == "tuned") for name in arguments.allocators]
    else:
        print("CAREamics left out: say where it is installed with --peers-python PATH")
    workers = []
    for library, python, tuned in wanted:
        name = library if library == "abbe" else f"{library}, {ALLOCATORS[tuned]} allocator"
        script = str(Path(__file__).with_name("restoration_worker.py"))
        inner = folder / f"{library}-{ALLOCATORS[tuned]}"
        inner.mkdir()
        for images in folder.glob("*.npy"):
            (inner / images.name).symlink_to(images)
        command = [str(python), script, library, str(arguments.threads), arguments.clock, str(inner)]
        try:
            worker = Worker(name, command, tuned=tuned, log=inner / "log")
            stack.callback(worker.close)
            print(f"{worker.answer()} as {name!r}", file=sys.stderr, flush=True)
        except (OSError, RuntimeError) as error:
            print(f"{name} left out: {error}")
            continue
        workers.append(worker)
    return workers


def train_all(workers: Sequence[Worker], arguments: argparse.Namespace) -> list[Times]:
    """Train one seed after the other, every second one in the other order; give the seconds of each worker.

    What a seed's network makes of the test images is written at once, since a worker keeps its last network only.
    """
    size = {name: getattr(arguments, name) for name in ("epochs", "steps", "batch", "patch")}
    seconds: list[Times] = [[] for _ in workers]
    for seed in range(arguments.seeds):
        order = list(zip(workers, seconds, strict=True))
        for worker, found in order if seed % 2 == 0 else reversed(order):
            options = hiding(arguments) if worker.name == "abbe" else None
            found.append(worker.do("train", seed=seed, **size, options=options))
            print(f"seed {seed}: {worker.name} trained in {found[-1]:.0f} s", file=sys.stderr, flush=True)
            for precision in precisions(worker):
                worker.do("predict", precision=precision, to=f"{seed}-{precision}.out.npy")
    return seconds


def hiding(arguments: argparse.Namespace) -> dict[str, float]:
    """Give what was asked for beside the method's own options."""
    return {name: value for name in ("share", "radius") if (value := getattr(arguments, name)) is not None}


def precisions(worker: Worker) -> tuple[str, ...]:
    return PRECISIONS if worker.name == "abbe" else PRECISIONS[:1]


def ways(workers: Sequence[Worker]) -> Iterator[tuple[Worker, str, str]]:
    """List the workers with the precisions of their predictions and what to call both."""
    for worker in workers:
        for precision in precisions(worker):
            yield worker, precision, f"{worker.name}, {precision}" if worker.name == "abbe" else worker.name


def print_quality(workers: Sequence[Worker], folder: Path, clean: np.ndarray, arguments: argparse.Namespace) -> None:
    noisy = np.load(folder / "test.npy")
    rows = [["noisy input", f"{fitted(noisy, clean):.2f}", "", ""]]
    for worker, precision, name in ways(workers):
        where = folder / ("abbe-tuned" if worker.name == "abbe" else f"careamics-{ALLOCATORS[worker.tuned]}")
        found = [fitted(np.load(where / f"{s}-{precision}.out.npy"), clean) for s in range(arguments.seeds)]
        spread = statistics.stdev(found) if len(found) > 1 else 0.0
        seeds = ", ".join(f"{one:.2f}" for one in found)
        rows.append([name, f"{statistics.mean(found):.2f}", f"{spread:.2f}", seeds])
    steps = arguments.epochs * arguments.steps
    title = f"Noise2Void after {steps} steps of {arguments.batch} patches of {arguments.patch}²: fitted PSNR"
    print_table(f"{title} of {len(clean)} test images", ["", "dB", "between seeds", "each seed"], rows)


def fitted(found: np.ndarray, clean: np.ndarray) -> float:
    return statistics.mean(psnr_fitted(one, other) for one, other in zip(found, clean, strict=True))


def print_training(workers: Sequence[Worker], trained: Sequence[Times], arguments: argparse.Namespace) -> None:
    ours = trained[0]
    rows = [
        [worker.name, f"{statistics.median(times):.1f}", "" if times is ours else ratio(ours, times)]
        for worker, times in zip(workers, trained, strict=True)
    ]
    title = f"Training, {conditions(arguments)}, medians over {arguments.seeds} seeds in turns"
    print_table(title, ["", "s", "Abbe takes × its time"], rows)


def print_prediction(workers: Sequence[Worker], clean: np.ndarray, arguments: argparse.Namespace) -> None:
    """Time all test images in one call, from array to array."""
    named = list(ways(workers))
    calls = [partial(worker.do, "predict", precision=precision) for worker, precision, _ in named]
    times = in_turns(calls, arguments.repeats)
    rows = speed_rows([name for *_, name in named], times, clean.size / 1e6)
    title = f"Prediction of {len(clean)} images of {clean.shape[1]} x {clean.shape[2]}, {conditions(arguments)}"
    print_table(f"{title}, {arguments.repeats} rounds in turns", speed_header(), rows)


def conditions(arguments: argparse.Namespace) -> str:
    return f"{arguments.threads} threads, {arguments.clock} time"


def speed_header() -> list[str]:
    return ["", "s/Mpx", *(f"Abbe in {precision} takes × its time" for precision in PRECISIONS)]


def speed_rows(names: Sequence[str], times: Sequence[Times], megapixels: float) -> list[list[str]]:
    """Compare each way with the first ones, which are Abbe's."""
    ours = times[: len(PRECISIONS)]
    rows = []
    for name, some in zip(names, times, strict=True):
        peer = not name.startswith("abbe")
        ratios = [ratio(own, some) if peer else "" for own in ours]
        rows.append([name, f"{statistics.median(some) / megapixels:.3f}", *ratios])
    return rows


# ------------------------------------------------------------------------------------------------------- stacks


def stack(arguments: argparse.Namespace) -> None:
    """Restore a 16-bit stack with networks of one size and random weights, and compare times and memory."""
    with ExitStack() as exits:
        folder = Path(exits.enter_context(tempfile.TemporaryDirectory(dir=arguments.work)))
        path, small = folder / "stack.tif", folder / "small.tif"
        write_stack(path, arguments.side, arguments.frames)
        write_stack(small, arguments.side, min(arguments.frames, SMALL))
        workers = crew(exits, folder, arguments)
        for worker in workers:
            worker.do("draw", seed=0)
        named = list(ways(workers))
        tiles = {worker.name: choose_tile(worker, small, arguments) for worker in workers}
        calls = [
            partial(worker.do, "stack", path=str(path), precision=precision, tile=tiles[worker.name])
            for worker, precision, _ in named
        ]
        watched = [] if arguments.no_memory else zip(named, calls, strict=True)
        peaks = [peak_of(worker, call) for (worker, *_), call in watched]
        times = in_turns(calls, arguments.repeats, warm=0)
        print_stack([name for *_, name in named], times, peaks, arguments)


def write_stack(path: Path, side: int, frames: int) -> None:
    """Write a 16-bit stack of nuclei whose planes differ in their noise."""
    field = fluorescence_field(FluorescenceField(shape=(side, side))).image.astype(np.float32)
    generator = np.random.default_rng(0)
    planes = tifffile.memmap(path, shape=(frames, side, side), dtype=np.uint16, metadata={"axes": "ZYX"})
    for plane in planes:
        noise = generator.standard_normal(field.shape, np.float32) * np.sqrt(field + 1)
        plane[:] = np.clip(field + noise + BASELINE, 0, np.iinfo(np.uint16).max)
    planes.flush()


def choose_tile(worker: Worker, path: Path, arguments: argparse.Namespace) -> int | None:
    """Find the tile with which the peer is fastest, on a few planes; Abbe chooses its own."""
    if worker.name == "abbe":
        worker.do("stack", path=str(path), precision=PRECISIONS[0])
        return None
    usable = [tile for tile in arguments.tiles if tile <= arguments.side]
    calls = [partial(worker.do, "stack", path=str(path), precision=PRECISIONS[0], tile=tile) for tile in usable]
    seconds = {tile: min(times) for tile, times in zip(usable, in_turns(calls, 1), strict=True)}
    told = ", ".join(f"{tile}² {one:.1f} s" for tile, one in seconds.items())
    best = min(seconds, key=seconds.__getitem__)
    print(f"{worker.name}: tiles of {told}; takes {best}²", flush=True)
    return best


def peak_of(worker: Worker, call: partial[float]) -> float:
    """Watch a round's memory, in GiB; it is not timed, since watching takes time too."""
    with sampled(worker.pid) as run:
        seconds = call()
    print(f"{worker.name}: {seconds:.0f} s while its memory was watched", file=sys.stderr, flush=True)
    return run.demand / 2**30


def print_stack(
    names: Sequence[str], times: Sequence[Times], peaks: Sequence[float], arguments: argparse.Namespace
) -> None:
    side, frames = arguments.side, arguments.frames
    rows = speed_rows(names, times, side * side * frames / 1e6)
    rows = [[*row, f"{peak:.2f}" if peak else ""] for row, peak in zip_longest(rows, peaks)]
    title = f"{frames} planes of {side}² in 16 bits, {conditions(arguments)}, rounds in turns: {arguments.repeats}"
    print_table(title, [*speed_header(), "peak GiB"], rows)
    print("From a TIFF to an array: Abbe's in 16 bits, CAREamics' in float32.")
    if peaks:
        print("Memory is that of the process tree in a round before the timed ones, without pages that files back.")
