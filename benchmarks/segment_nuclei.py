"""The tables of the main job, counting and measuring nuclei: quality, speed, memory, ways through the network.

    python benchmarks/segment_nuclei.py quality  --data dsb2018 [--every-path]
    python benchmarks/segment_nuclei.py speed    --side 4096 --peers-python peers/bin/python
    python benchmarks/segment_nuclei.py memory   --side 16384
    python benchmarks/segment_nuclei.py backends [--data dsb2018]

DATA is a folder with ``fluorescence/``, ``histology/`` ... inside, each with train, val and test. The peers live in an
environment of their own (``pip install stardist tensorflow-cpu cellpose``); without one only Abbe is timed.
What is not there is left out, and said.
"""

from __future__ import annotations

import argparse
import copy
import statistics
import sys
import tempfile
import time
from collections.abc import Callable
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import numpy as np
import tifffile
import torch

import abbe
from abbe.data.datasets import find_pairs, find_splits
from abbe.data.synthetic import FluorescenceField, LazyField, fluorescence_field
from abbe.errors import AbbeError
from abbe.evaluation import read_truth
from abbe.metrics.instances import match, scores
from abbe.model import TILE, Model
from abbe.nn.memory import tune_allocator
from abbe.settings import SegmentSettings
from abbe.tiling.prepare import Predictor, choose_backend, computes_bfloat16
from peak_memory import watch
from programs import Program
from tables import machine, print_table

PATHS: dict[str, dict[str, Any]] = {
    "plain float32": {"precision": "exact"},
    "prepared float32": {"precision": "float32", "backend": "torch"},
    "prepared bfloat16": {"precision": "bfloat16", "backend": "torch"},
    "OpenVINO float32": {"precision": "float32", "backend": "openvino"},
    "OpenVINO bfloat16": {"precision": "bfloat16", "backend": "openvino"},
}
"""Ways through the network, as options of a prediction."""
CELLPOSE_SIDE = 1024
"""Its network is a hundred times larger than the others; its time is quoted per megapixel."""
ROWS = 512
"""Rows of a generated image that are in memory at a time."""


def main() -> None:
    arguments = parse()
    print(machine())
    try:
        arguments.verb(arguments)
    except AbbeError as error:
        sys.exit(f"left out: {error}")


def parse() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    verbs = parser.add_subparsers(required=True)
    for verb in (quality, speed, memory, backends):
        sub = verbs.add_parser(verb.__name__, help=verb.__doc__)
        sub.add_argument("--model", default="nuclei", help="name or file")
        sub.set_defaults(verb=verb)
        if verb in (quality, backends):
            sub.add_argument("--data", type=Path, required=verb is quality)
        if verb in (speed, memory):
            sub.add_argument("--side", type=int, default=4096, help="pixels")
        if verb in (speed, backends):
            sub.add_argument("--repeats", type=int, default=5)
    verbs.choices["quality"].add_argument("--every-path", action="store_true", help="all ways through the network")
    verbs.choices["speed"].add_argument("--peers-python", type=Path, help="interpreter that has stardist and cellpose")
    verbs.choices["speed"].add_argument("--peers", nargs="*", default=["stardist", "cellpose", "cellpose-float32"])
    verbs.choices["backends"].add_argument("--tile", type=int, default=TILE[2, "cpu"], help="pixels")
    return parser.parse_args()


# --------------------------------------------------------------------------------------------------- quality


def quality(arguments: argparse.Namespace) -> None:
    """Score the model on the test splits."""
    model = abbe.load(arguments.model)
    paths = available_paths() if arguments.every_path else {"auto": {}}
    rows = []
    for folder in test_folders(arguments.data):
        for name, options in paths.items():
            result = abbe.evaluate(model, folder, split="test", **options)
            rows.append([folder.name, str(len(result.images)), name, *quality_cells(result)])
            print(f"{folder.name}, {name}: done", file=sys.stderr)
    header = ["test images of", "images", "path", "AP@0.5", "AP@0.75", "mean AP 0.5-0.9", "F1@0.5", "PQ", "count error"]
    print_table(f"Quality of {model.name} [95 % intervals by resampling images]", header, rows)


def quality_cells(result: Any) -> list[str]:
    def cell(name: str) -> str:
        low, high = result.intervals.get(name, (None, None))
        return f"{result.scores[name]:.3f}" + (f" [{low:.3f}, {high:.3f}]" if low is not None else "")

    return [cell(name) for name in ("ap50", "ap75", "map50_90", "f1_50", "pq", "count_error")]


def test_folders(data: Path) -> list[Path]:
    """Find the kinds of images that have a test split."""
    if not data.is_dir():
        raise AbbeError(f"{data}: no such folder; expected one with fluorescence/ ... inside")
    kinds = [data, *sorted(path for path in data.iterdir() if path.is_dir())]
    found = [kind for kind in kinds if "test" in find_splits(kind)]
    if not found:
        raise AbbeError(f"{data}: no folder in it has a test split")
    return found


def available_paths() -> dict[str, dict[str, Any]]:
    """Leave out what this machine does not have."""
    paths = {}
    for name, options in PATHS.items():
        try:
            choose_backend(options.get("backend", "torch"), "cpu", options["precision"])
        except AbbeError as error:
            print(f"{name} left out: {error}")
            continue
        if options["precision"] == "bfloat16" and not computes_bfloat16("cpu"):
            print(f"{name} left out: the processor only emulates bfloat16")
            continue
        paths[name] = options
    return paths


# ----------------------------------------------------------------------------------------------------- speed


def speed(arguments: argparse.Namespace) -> None:
    """Time Abbe and the peers on one generated field, round by round in turn."""
    abbe.load(arguments.model)  # tells at once if there is none
    with ExitStack() as stack:
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory()))
        fields = make_fields(folder, arguments.side)
        programs = {"abbe": start(stack, Path(sys.executable), "abbe", fields["whole"], arguments.model)}
        for peer in arguments.peers if arguments.peers_python else ():
            field = fields["part" if peer.startswith("cellpose") else "whole"]
            programs[peer] = start(stack, arguments.peers_python, peer, field)
        running = {name: program for name, program in programs.items() if program is not None}
        rounds: dict[str, list[dict[str, float]]] = {name: [] for name in running}
        for number in range(arguments.repeats):
            for name, program in running.items():
                rounds[name].append(program.round())
                print(f"round {number + 1} of {arguments.repeats}: {name} {rounds[name][-1]}", file=sys.stderr)
        print_speed(running, rounds)
        print_agreement_with_truth(running)
    if not arguments.peers_python:
        print("peers left out: say where they are installed with --peers-python PATH")


def start(stack: ExitStack, python: Path, name: str, folder: Path, *model: str) -> Program | None:
    """Start a worker; None where the program is not installed or does not run."""
    try:
        program = Program(python, name, folder, *model)
    except (OSError, RuntimeError) as error:
        print(f"{name} left out: {error}")
        return None
    stack.callback(program.close)
    return program


def make_fields(folder: Path, side: int) -> dict[str, Path]:
    """Write the field as arrays, and its upper left part for Cellpose."""
    field = fluorescence_field(FluorescenceField(shape=(side, side)))
    part = min(side, CELLPOSE_SIDE)
    folders = {}
    for name, extent in (("whole", side), ("part", part)):
        folders[name] = folder / name
        folders[name].mkdir()
        np.save(folders[name] / "image.npy", field.image[:extent, :extent])
        np.save(folders[name] / "labels.npy", field.labels[:extent, :extent])
    return folders


def print_speed(programs: dict[str, Program], rounds: dict[str, list[dict[str, float]]]) -> None:
    def rate(name: str, part: str) -> float:
        return programs[name].megapixels / statistics.median(seconds[part] for seconds in rounds[name])

    rows = []
    for name, program in programs.items():
        times = [statistics.median(r.get(part, np.nan) for r in rounds[name]) for part in ("network", "post")]
        row = [
            f"{name} {program.version}",
            f"{program.megapixels:.1f}",
            *(cell(value / program.megapixels) for value in times),
        ]
        for part in ("segmentation", "total"):
            row += [f"{rate(name, part):.3f}", f"{rate('abbe', part) / rate(name, part):.2f}"]
        rows.append([*row, str(rounds[name][-1]["objects"])])
    header = [
        "program",
        "Mpx",
        "network s/Mpx",
        "post s/Mpx",
        "Mpx/s",
        "Abbe is ×",
        "measured Mpx/s",
        "Abbe is ×",
        "objects",
    ]
    repeats = len(next(iter(rounds.values())))
    print_table(f"Speed on a generated field, median of {repeats} rounds taken in turn", header, rows)
    print("All with the allocator setting. Peers: random weights, post-processing of exact maps; normalising the image")
    print("is in Abbe's time and not in theirs. Measured: with Abbe's table of measurements on each program's labels.")


def cell(value: float) -> str:
    return "" if np.isnan(value) else f"{value:.3f}"


def print_agreement_with_truth(programs: dict[str, Program]) -> None:
    for name, program in programs.items():
        truth = np.load(program.folder / "labels.npy").astype(np.int32)
        found = scores([match(truth, np.load(program.labels_file).astype(np.int32))])
        print(f"{name}: AP@0.5 {found['ap50']:.3f}, count error {found['count_error']:.3f} on the generated field")


# ---------------------------------------------------------------------------------------------------- memory


def memory(arguments: argparse.Namespace) -> None:
    """Watch the memory of ``abbe segment`` on a generated image file that is read lazily."""
    if not Path("/proc/self/status").exists():
        raise AbbeError("memory: reads /proc, which only Linux has")
    abbe.load(arguments.model)
    with tempfile.TemporaryDirectory() as name:
        image, out = Path(name) / "field.tif", Path(name) / "results"
        write_field(image, arguments.side)
        code = "from abbe.cli.main import main; main()"
        run = watch([sys.executable, "-c", code, "segment", str(image), "--model", arguments.model, "--out", str(out)])
        counts = (out / "objects.csv").read_bytes().count(b"\n") - 1 if run.exit_code == 0 else 0
    if run.exit_code:
        sys.exit(f"abbe segment failed with exit code {run.exit_code}")
    megapixels = arguments.side**2 / 1e6
    row = [f"{arguments.side}²", f"{run.demand / 2**30:.2f}", f"{run.resident / 2**30:.2f}", f"{run.seconds:.0f}",
           f"{megapixels / run.seconds:.2f}", str(counts)]  # fmt: skip
    header = ["field", "peak GiB", "with file-backed GiB", "whole command s", "Mpx/s", "objects"]
    print_table("Memory of `abbe segment`: the process tree's anonymous and shared pages, every 50 ms", header, [row])


def write_field(path: Path, side: int) -> None:
    """Write a generated field as an uncompressed TIFF, some rows at a time."""
    field = LazyField((side, side), kept=side // ROWS + 2)
    image = tifffile.memmap(path, shape=(side, side), dtype=np.uint16)
    for y in range(0, side, ROWS):
        image[y : y + ROWS] = field[y : y + ROWS]
    image.flush()


# -------------------------------------------------------------------------------------------------- backends


def backends(arguments: argparse.Namespace) -> None:
    """Time the ways through the network on one tile, and compare their objects with the plain path's."""
    model = abbe.load(arguments.model)
    print_backends(model, arguments.tile, arguments.repeats)
    if arguments.data is None:
        print("agreement left out: say where the data lie with --data DIR")
        return
    for folder in test_folders(arguments.data):
        print_agreement(model, folder)


def print_backends(model: Model, side: int, repeats: int) -> None:
    """Time a tile through each path; the allocator setting holds for all of them, eager too."""
    tune_allocator()
    field = LazyField((side, side))[:, :].astype(np.float32)
    window = np.ascontiguousarray(np.broadcast_to(field / field.max(), (1, model.method.in_channels, side, side)))
    ways: dict[str, Callable[[np.ndarray], Any]] = {
        "eager float32, contiguous": eager(model.method, torch.contiguous_format),
        "eager float32, channels-last": eager(model.method, torch.channels_last),
    }
    plain = len(ways)
    for name, options in available_paths().items():
        if options["precision"] != "exact":
            ways[name] = Predictor(model.method, device="cpu", **options)
    medians = {name: statistics.median(times) for name, times in in_turn(ways, window, repeats).items()}
    best = min(list(medians.values())[:plain])
    rows = [[name, f"{1e3 * s:.0f}", f"{side**2 / 1e6 / s:.2f}", f"{best / s:.2f}"] for name, s in medians.items()]
    header = ["path", "ms", "Mpx/s", "× best eager"]
    title = f"One tile of {side}² through the network, median of {repeats} in turn, all with the allocator setting"
    print_table(title, header, rows)


def eager(method: Any, layout: torch.memory_format) -> Callable[[np.ndarray], Any]:
    """Make the plain forward in a memory format."""
    network = copy.deepcopy(method).eval().to(memory_format=layout)

    @torch.inference_mode()
    def compute(window: np.ndarray) -> dict[str, np.ndarray]:
        x = torch.from_numpy(window).to(memory_format=layout)
        return {name: maps.numpy() for name, maps in network.predict(x).items()}

    return compute


def in_turn(ways: dict[str, Callable[[np.ndarray], Any]], window: np.ndarray, repeats: int) -> dict[str, list[float]]:
    """Time each way once per round, after one round to warm up."""
    seconds: dict[str, list[float]] = {name: [] for name in ways}
    for _ in range(repeats + 1):
        for name, compute in ways.items():
            begin = time.perf_counter()
            compute(window)
            seconds[name].append(time.perf_counter() - begin)
    return {name: times[1:] for name, times in seconds.items()}


def print_agreement(model: Model, folder: Path) -> None:
    """Score the objects of each prepared path as if the plain path's were the truth, and against the annotation."""
    paths = available_paths()
    against: dict[str, list[Any]] = {name: [] for name in paths}
    annotated: dict[str, list[Any]] = {name: [] for name in paths}
    for pair in find_pairs(find_splits(folder)["test"]):
        truth = read_truth(pair)
        found = {name: model.predict(pair.image, SegmentSettings(device="cpu", **paths[name])).labels for name in paths}
        for name, labels in found.items():
            against[name].append(match(found["plain float32"], labels))
            annotated[name].append(match(truth["labels"], labels, truth["ignore"]))
    rows = []
    for name in paths:
        agreement, quality_ = scores(against[name]), scores(annotated[name])
        rows.append([name, *(f"{agreement[key]:.4f}" for key in ("ap75", "ap90")), f"{quality_['ap50']:.4f}"])
    header = ["path", "AP@0.75 against plain", "AP@0.9 against plain", "AP@0.5 against annotation"]
    print_table(f"Objects of the prepared paths, test images of {folder.name}", header, rows)


if __name__ == "__main__":
    main()
