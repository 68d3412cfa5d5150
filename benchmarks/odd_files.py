"""Reliability: odd but valid files read against what was written, damaged files, and a batch over all of them.

    python benchmarks/odd_files.py

Each file is read in a process of its own, which must end within a time, ask for little memory, and either give the
right pixels or refuse the file with one sentence. Then ``segment_files`` works through the folder of all files in one
process. With ``--list`` every file is told that was refused or read otherwise. Fails if a file was wrong, crashed the
reader, or stopped the batch. Linux only.
"""

from __future__ import annotations

import argparse
import dataclasses
import faulthandler
import itertools
import json
import multiprocessing
import re
import sys
import tempfile
import time
import warnings
from collections import Counter, defaultdict
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import PIL.Image
import tifffile

from abbe.data.image import Image
from abbe.data.inputs import find_images
from abbe.data.read import read
from abbe.errors import AbbeError
from damage import DAMAGES, damaged_files, lying_headers
from odd_pictures import all_pictures
from odd_tiffs import Case, all_tiffs
from odd_zarrs import HARMED as HARMED_ZARR
from odd_zarrs import LYING as LYING_ZARR
from odd_zarrs import all_zarrs, damaged_zarrs, lying_zarrs, stated_shape
from peak_memory import watch
from tables import machine, print_table

SECONDS = 30
"""After these a read counts as hanging."""
MEMORY = 512
"""MiB of address space that reading a file of some kilobytes may ask for."""
LARGE = 2**26
"""Pixels from which on only the corners of an image are read: what would be read lazily."""
LYING = "one number of the header false"
RIGHT, CHANGED, REFUSED, WRONG = "right", "changed", "refused", "wrong"
Outcome = tuple[str, str]


# --- one file -------------------------------------------------------------------------------------------------------


def read_case(path: Path, case: Case) -> Outcome:
    """Read a valid file and compare all of it, and a part, with what was written."""
    image = read(path, axes=case.chosen.get("axes"))
    plane = image.select(z=case.chosen.get("z"), time=case.chosen.get("time")).planar()
    pixels, expected = whole(plane), case.expected
    if expected is None:
        return WRONG, f"read as {plane.shape}, but it should be refused"
    if pixels.shape != expected.shape or pixels.dtype != expected.dtype:
        return WRONG, f"{pixels.dtype} {pixels.shape}, but {expected.dtype} {expected.shape} was written"
    if not close(pixels, expected, case.tolerance):
        return WRONG, "other values"
    y0, x0 = plane.height // 3, plane.width // 3
    part = plane.region(y0, plane.height, x0, plane.width)
    same = np.array_equal(part, pixels[:, y0:, x0:], equal_nan=pixels.dtype.kind == "f")
    return (RIGHT, "") if same else (WRONG, "a part differs from the whole")


def read_damaged(path: Path, expected: np.ndarray) -> Outcome:
    """Read a harmed file; where no checksum shows the harm, its pixels are those that the bytes now say."""
    plane = read(path).planar()
    pixels = whole(plane)
    if plane.height * plane.width <= LARGE and pixels.shape != plane.shape:
        return WRONG, f"{pixels.shape} pixels of an image of {plane.shape}"
    if pixels.shape == expected.shape and pixels.dtype == expected.dtype and np.array_equal(pixels, expected):
        return RIGHT, ""
    if pixels.shape == expected.shape:
        return CHANGED, "other values"
    reference = other_reader(path)
    agree = reference is not None and {plane.height, plane.width} <= set(reference.shape)
    return (CHANGED if agree else WRONG), f"{pixels.shape}, another reader has {getattr(reference, 'shape', None)}"


def whole(plane: Image) -> np.ndarray:
    """Read all of a plane, or of a large one the last corner."""
    if plane.height * plane.width > LARGE:
        return plane.region(plane.height - 64, plane.height, max(plane.width - 64, 0), plane.width)
    return plane.region(0, plane.height, 0, plane.width)


def close(found: np.ndarray, expected: np.ndarray, tolerance: float) -> bool:
    """Compare values: exactly, or within what a lossy codec changes."""
    if tolerance:
        return bool(np.abs(found.astype(float) - expected.astype(float)).max() <= tolerance)
    return np.array_equal(found, expected, equal_nan=expected.dtype.kind == "f")


def other_reader(path: Path) -> np.ndarray | None:
    """What tifffile, Pillow or NumPy reads of the file, of a Zarr what its metadata state; None where it fails."""
    try:
        if path.suffix == ".zarr":
            return np.broadcast_to(np.uint8(0), stated_shape(path))
        if path.suffix in (".tif", ".btf"):
            return tifffile.imread(path)
        return np.load(path) if path.suffix == ".npy" else np.asarray(PIL.Image.open(path))
    except Exception:
        return None


def guarded(job: Callable[[], Outcome], name: str) -> Outcome:
    """Sort what a read raises: a sentence about the file, or anything else."""
    before = peak_address_space()
    try:
        outcome = job()
    except AbbeError as error:
        outcome = refusal(error, name)
    except BaseException as error:
        return WRONG, f"{type(error).__name__}: {error}"
    grown = peak_address_space() - before
    return (WRONG, f"asked for {grown} MiB of memory ({outcome[1]})") if grown > MEMORY else outcome


def refusal(error: AbbeError, name: str) -> Outcome:
    """Check that a refusal is one sentence that names the file, and did not come from a failed allocation."""
    text, cause = str(error), error.__cause__
    if isinstance(cause, MemoryError):
        return WRONG, f"tried a huge allocation: {text}"
    if name not in text or (len(text.splitlines()) > 1 and "\n" not in name) or len(text) > 400 + 2 * len(name):
        return WRONG, f"not one sentence about the file: {text}"
    return REFUSED, text


def peak_address_space() -> int:
    """MiB that this process has ever asked for."""
    status = Path("/proc/self/status").read_text()
    return int(re.search(r"VmPeak:\s+(\d+)", status)[1]) // 1024  # type: ignore[index]


def isolated(job: Callable[[], Outcome], name: str) -> Outcome:
    """Run a read in a fork of this process, which may crash or hang."""
    context = multiprocessing.get_context("fork")
    here, there = context.Pipe(duplex=False)

    def work() -> None:
        warnings.simplefilter("ignore")
        there.send(guarded(job, name))

    process = context.Process(target=work)
    process.start()
    there.close()
    try:
        return here.recv() if here.poll(SECONDS) else (WRONG, f"hung for {SECONDS} s")
    except EOFError:
        process.join()
        return WRONG, f"the process died with {process.exitcode}"
    finally:
        process.kill()
        process.join()


# --- the folder -----------------------------------------------------------------------------------------------------


def write_case(case: Case, folder: Path) -> Path:
    """Write a case into a folder of its own kind, as file names repeat between kinds."""
    path = folder / re.sub(r"\W+", " ", case.kind).strip() / case.name
    path.parent.mkdir(parents=True, exist_ok=True)
    case.write(path)
    return path


def bright_model(path: Path) -> Path:
    """Make a model of the smallest network, set by hand: foreground is nearer to white than to black."""
    import torch

    from abbe.methods.backbones.unet_residual import VARIANTS, build
    from abbe.methods.segmentation.instances import InstancesConfig, InstanceSegmentation
    from abbe.weights.file import Description, save_model

    config = VARIANTS["unet_residual_tiny"]
    network = build(config)
    with torch.no_grad():
        for module in network.modules():
            if isinstance(module, torch.nn.Conv2d):
                module.weight.zero_()
        network.detail.weight[0, :, 1, 1] = 1 / network.in_channels  # carries the mean of the channels
        network.head.weight[:, 0] = torch.tensor([20.0, 24.0]).view(2, 1, 1)
        network.head.bias[:] = torch.tensor([-10.0, -20.0])
    described = {"config": dataclasses.asdict(config), "options": dataclasses.asdict(InstancesConfig())}
    normalization = {"kind": "percentile", "low": 1.0, "high": 99.8, "joint": True}
    description = Description(
        name="bright", network="unet_residual_tiny", objective="instances", normalization=normalization, **described
    )
    return save_model(path, InstanceSegmentation(network).state_dict(), description)


def batch(folder: Path) -> None:
    """Run the real road over a folder with a tiny network, and write what came of it into batch.json."""
    from abbe.batch import Outputs
    from abbe.folders import segment_files
    from abbe.settings import SegmentSettings

    faulthandler.dump_traceback_later(3600, exit=True)
    settings = SegmentSettings(device="cpu", precision="exact", backend="torch")
    model = bright_model(folder / "bright.safetensors")
    result = segment_files([folder / "files"], Outputs(folder / "results"), model, settings, tell=lambda _: None)
    shapes = result.images.set_index("image")[["height", "width"]].to_dict("split")
    (folder / "batch.json").write_text(json.dumps({"failures": result.failures, "shapes": shapes}))


def batch_outcomes(folder: Path) -> tuple[list[list[str]], list[str]]:
    """Run the batch in a process and count: rows of a table, and what was wrong."""
    start = time.perf_counter()
    ran = watch([sys.executable, __file__, "--batch", str(folder)])
    seconds = time.perf_counter() - start
    found = find_images([folder / "files"])
    if ran.exit_code or not (folder / "batch.json").exists():
        return [["batch", str(len(found)), "0", "0", "1", ""]], [f"the batch ended with {ran.exit_code}"]
    outcome = json.loads((folder / "batch.json").read_text())
    crashed = [
        reason for _, reason in outcome["failures"] if re.search(r": [A-Za-z_.]*(Error|Exception|Warning): ", reason)
    ]
    shapes = dict(zip(outcome["shapes"]["index"], outcome["shapes"]["data"]))
    wrong = [
        item.relative
        for item in found
        if (shape := shapes.get(item.relative.as_posix())) and not fits(item, shape, folder)
    ]
    lost = len(found) - len(shapes) - len(outcome["failures"])
    told = [
        *crashed,
        *(f"{name}: labels of another shape" for name in wrong),
        *([f"{lost} files lost"] if lost else []),
    ]
    done, refused = len(shapes) - len(wrong), len(outcome["failures"]) - len(crashed)
    demand = f"{ran.demand / 2**20:.0f} MiB, {seconds:.0f} s"
    return [["one batch", str(len(found)), str(done), str(refused), str(len(told)), demand]], told


def fits(item: Any, shape: Sequence[int], folder: Path) -> bool:
    """Tell whether the labels of an image have its shape."""
    base, plane = folder / "results" / item.relative, read(item.path).planar()
    places = (base.with_name(f"{base.name}_labels{suffix}") for suffix in (".tif", ".ome.zarr"))
    labels = read(next(place for place in places if place.exists()))
    return tuple(shape) == labels.shape == (plane.height, plane.width)


# --- tables ---------------------------------------------------------------------------------------------------------


def rows(counts: dict[str, Counter[str]], columns: Sequence[str]) -> list[list[str]]:
    """One row per kind, and their sum."""
    total = sum(counts.values(), Counter())
    lines = {**counts, "all": total}
    return [[kind, str(count.total()), *(str(count[column]) for column in columns)] for kind, count in lines.items()]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--times", type=int, default=2, help="how often each file is harmed in each way")
    parser.add_argument("--list", action="store_true", help="tell every file that was refused or read otherwise")
    parser.add_argument("--no-batch", action="store_true")
    parser.add_argument("--folder", type=Path, help="keep the files here")
    parser.add_argument("--batch", type=Path, help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.batch:
        return batch(options.batch)
    folder = options.folder or Path(tempfile.mkdtemp(prefix="abbe-odd-"))
    valid, harmed, told, wrong = defaultdict(Counter), defaultdict(Counter), [], []

    def note(counts: dict[str, Counter[str]], kind: str, name: str, outcome: Outcome) -> None:
        counts[kind][outcome[0]] += 1
        if outcome[0] != RIGHT:
            (wrong if outcome[0] == WRONG else told).append(f"{outcome[0]}: {kind}: {name}: {outcome[1]}")

    for case in (*all_tiffs(), *all_pictures(), *all_zarrs()):
        path = write_case(case, folder / "files")
        note(valid, case.kind, case.name, isolated(lambda path=path, case=case: read_case(path, case), case.name))
    lying = ((LYING, *harm) for harm in lying_headers())
    for damage, name, data, expected in itertools.chain(damaged_files(options.times), lying):
        path = folder / "files" / "damaged" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(data)
        note(harmed, damage, name, isolated(lambda path=path, whole=expected: read_damaged(path, whole), name))
    place, source = folder / "files" / "damaged", folder / "whole"
    for damage, path, data in itertools.chain(
        damaged_zarrs(place, source / "harmed", options.times), lying_zarrs(place, source / "lying")
    ):
        note(harmed, damage, path.name, isolated(lambda path=path, whole=data: read_damaged(path, whole), path.name))
    print(machine())
    heads = ["tried", "read right", "refused with a sentence", "wrong or crashed"]
    print_table("Odd but valid files", ["kind", *heads], rows(valid, (RIGHT, REFUSED, WRONG)))
    heads.insert(2, "read as the bytes now say")
    damages = {damage: harmed[damage] for damage in (*DAMAGES, LYING, HARMED_ZARR, LYING_ZARR)}
    print_table("Damaged files", ["damage", *heads], rows(damages, (RIGHT, CHANGED, REFUSED, WRONG)))
    if not options.no_batch:
        table, failures = batch_outcomes(folder)
        header = ["all of them", "files", "segmented", "refused with a sentence", "wrong or crashed", "peak memory"]
        print_table("One batch over all files", header, table)
        wrong += failures
    for line in (*wrong, *(told if options.list else ())):
        print(line)
    sys.exit(bool(wrong))


if __name__ == "__main__":
    main()
