"""StarDist on one big image, block by block; `big_images.py stardist` calls it with an interpreter that has StarDist.

    PEERS/bin/python benchmarks/stardist_big.py maps FOLDER --block 4096
    PEERS/bin/python benchmarks/stardist_big.py run  FOLDER --block 4096

FOLDER holds ``image.npy`` and its exact ``labels.npy``. A random network takes the time of a trained one, but its maps
mean nothing. So ``maps`` writes, for each block that `predict_instances_big` will read, the candidates that a perfect
network would give, and ``run`` lets the network compute, puts its output aside, and goes on with these; reading them is
not timed. All else is StarDist's own: blocks, tiles, non-maximum suppression, drawing, relabelling, writing.

It gets what keeps its memory small: image and labels lie in files, and the image is normalised block by block.
"""

from __future__ import annotations

import argparse
import json
import os
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np

from peers_worker import STARDIST_CONFIG, STARDIST_THRESHOLDS, STARDIST_TILE, consecutive, stardist_exact_maps

OVERLAP = CONTEXT = 128
"""Of blocks, as in the example of its documentation."""
BORDER = 2
"""Pixels of the network's grid at the border of a block where it takes no candidates."""


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("verb", choices=["maps", "run"])
    parser.add_argument("folder", type=Path)
    parser.add_argument("--block", type=int, default=4096)
    arguments = parser.parse_args()
    os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")
    (write_maps if arguments.verb == "maps" else run)(arguments.folder, arguments.block)


def write_maps(folder: Path, side: int) -> None:
    """Write the candidates of each block: prob (N,), dist (N, rays), points (N, 2) in pixels of the block."""
    from stardist.big import BlockND

    labels = np.load(folder / "labels.npy", mmap_mode="r")
    for number, block in enumerate(BlockND.cover(labels.shape, "YX", side, OVERLAP, CONTEXT, STARDIST_CONFIG["grid"])):
        prob, dist = stardist_exact_maps(consecutive(block.read(labels, axes="YX")).astype(np.uint16))
        taken = prob > STARDIST_THRESHOLDS["prob_thresh"]
        for axis in range(2):
            np.moveaxis(taken, axis, 0)[:BORDER] = False
            np.moveaxis(taken, axis, 0)[-BORDER:] = False
        points = np.stack(np.nonzero(taken), axis=1) * np.array(STARDIST_CONFIG["grid"])
        np.savez(folder / f"{number}.npz", prob=prob[taken], dist=dist[taken], points=points)


def stardist_with_exact_maps(folder: Path) -> Any:
    """Make a model whose network computes in vain."""
    from stardist.models import Config2D, StarDist2D

    class Exact(StarDist2D):
        blocks = 0
        seconds_aside = 0.0

        def _predict_sparse_generator(self, *args: Any, **options: Any) -> Iterator[Any]:
            options["prob_thresh"] = 2.0  # a random network shall not give candidates
            for found in super()._predict_sparse_generator(*args, **options):
                if found is None:
                    yield None
            start = time.perf_counter()
            with np.load(folder / f"{self.blocks}.npz") as exact:
                maps = exact["prob"], exact["dist"], exact["points"]
            self.blocks += 1
            self.seconds_aside += time.perf_counter() - start
            yield maps

    return Exact(Config2D(**STARDIST_CONFIG), name="random", basedir=str(folder / "model"))


def run(folder: Path, side: int) -> None:
    """Segment once; writes seconds and the number of objects into ``stardist.json``."""
    from csbdeep.data import Normalizer

    class Limits(Normalizer):
        """Percentiles of the whole image, for each block."""

        do_after = False

        def __init__(self, low: float, high: float):
            self.low, self.high = low, high

        def before(self, x: np.ndarray, axes: str) -> np.ndarray:
            return ((x.astype(np.float32) - self.low) / (self.high - self.low)).astype(np.float32)

        def after(self, mean: Any, scale: Any, axes: str) -> Any:
            raise NotImplementedError

    model = stardist_with_exact_maps(folder)
    image = np.load(folder / "image.npy", mmap_mode="r")
    model.predict_sparse(np.asarray(image[:STARDIST_TILE, :STARDIST_TILE], np.float32), prob_thresh=2.0)  # warm up
    model.blocks, model.seconds_aside = 0, 0.0
    tiles = (max(1, side // STARDIST_TILE),) * 2
    start = time.perf_counter()
    normalizer = Limits(*np.percentile(image[::8, ::8], (1, 99.8)))
    labels = np.lib.format.open_memmap(folder / "found.npy", "w+", np.int32, image.shape)
    _, objects = model.predict_instances_big(
        image, "YX", side, OVERLAP, CONTEXT, labels_out=labels, show_progress=False, show_tile_progress=False,
        normalizer=normalizer, n_tiles=tiles, **STARDIST_THRESHOLDS,
    )  # fmt: skip
    seconds = time.perf_counter() - start - model.seconds_aside
    (folder / "stardist.json").write_text(json.dumps({"seconds": seconds, "objects": len(objects["prob"])}))


if __name__ == "__main__":
    main()
