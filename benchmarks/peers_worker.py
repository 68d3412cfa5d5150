"""Time one program inside its own interpreter, one round per line that arrives on standard input.

    python benchmarks/peers_worker.py PROGRAM FOLDER [MODEL]

PROGRAM is ``abbe`` (with a MODEL), ``stardist``, ``cellpose`` (bfloat16 weights, its default) or ``cellpose-float32``.
FOLDER holds ``image.npy`` (Y, X) and its exact ``labels.npy``. The worker answers with one line of JSON when it is
ready and one after each round, and leaves the labels it found in ``PROGRAM_labels.npy``; it ends when its input ends.
`segment_nuclei.py speed` is the caller: it takes rounds of all programs in turn.

The peers' published weights are not needed, for a network takes the same time with random ones; but then its maps
mean nothing, so that their post-processing works on exact maps of the ground truth. Abbe does the real thing.
"""

from __future__ import annotations

import json
import os
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from importlib.metadata import version
from pathlib import Path

import numpy as np

# Architecture of the published model `2D_versatile_fluo`; what its config.json leaves at the default is not repeated.
STARDIST_CONFIG = {
    "axes": "YX", "n_channel_in": 1, "n_rays": 32, "grid": (2, 2), "unet_n_depth": 3, "unet_kernel_size": (3, 3),
    "unet_n_filter_base": 32, "unet_n_conv_per_depth": 2, "unet_pool": (2, 2), "unet_batch_norm": False,
    "net_conv_after_unet": 128,
}  # fmt: skip
STARDIST_THRESHOLDS = {"prob_thresh": 0.479071, "nms_thresh": 0.3}
STARDIST_TILE = 1024
"""Side of its tiles: the whole 4096² at once takes tens of gigabytes."""
CELLPOSE_FLOW_SCALE = 5.0
"""Cellpose's network gives flows five times the unit vectors of its dynamics."""

Round = Callable[[], dict[str, float]]


@contextmanager
def stopwatch(seconds: dict[str, float], name: str) -> Iterator[None]:
    start = time.perf_counter()
    yield
    seconds[name] = time.perf_counter() - start


def consecutive(labels: np.ndarray) -> np.ndarray:
    """Renumber to 1..n; a crop of a field has lost some of its numbers."""
    numbers, inverse = np.unique(labels, return_inverse=True)
    return (inverse.reshape(labels.shape) + (numbers[0] != 0)).astype(np.int32)


def stardist_model():
    from stardist.models import Config2D, StarDist2D

    with tempfile.TemporaryDirectory() as folder:  # it writes its configuration somewhere
        return StarDist2D(Config2D(**STARDIST_CONFIG), name="random", basedir=folder)


def stardist_exact_maps(labels: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Make the maps that a perfect StarDist network would give: prob (Y/2, X/2), dist (Y/2, X/2, rays)."""
    from stardist.geometry import star_dist
    from stardist.utils import edt_prob

    if labels.max() >= 2**16:
        raise SystemExit("stardist counts objects in 16 bits: take a smaller --side")
    grid = STARDIST_CONFIG["grid"]
    prob = edt_prob(labels[:: grid[0], :: grid[1]])
    return prob, np.maximum(1e-3, star_dist(labels, STARDIST_CONFIG["n_rays"], grid=grid))


def stardist_round(image: np.ndarray, labels: np.ndarray, save: Path) -> Round:
    from csbdeep.utils import normalize

    model = stardist_model()
    prob, dist = stardist_exact_maps(labels)
    tiles = tuple(max(1, round(extent / STARDIST_TILE)) for extent in image.shape)
    network = {"n_tiles": tiles, "show_tile_progress": False}

    def run() -> dict[str, float]:
        seconds: dict[str, float] = {}
        with stopwatch(seconds, "normalise"):
            normalised = normalize(image, 1, 99.8)
        with stopwatch(seconds, "network"):  # sparse is the faster way; a random network shall not give candidates
            model.predict_sparse(normalised, prob_thresh=2.0, **network)
        with stopwatch(seconds, "post"):
            found, _ = model._instances_from_prediction(image.shape, prob, dist, **STARDIST_THRESHOLDS)
        np.save(save, found)
        return {**seconds, "objects": int(found.max())}

    model.predict_sparse(image.astype(np.float32), prob_thresh=2.0, **network)
    return run


def cellpose_round(image: np.ndarray, labels: np.ndarray, save: Path, *, bfloat16: bool) -> Round:
    import torch
    from cellpose import core, dynamics, transforms
    from cellpose.vit import CPSAM

    dtype = torch.bfloat16 if bfloat16 else torch.float32
    network = CPSAM(dtype=dtype).to(dtype).eval()
    unit_flows, _ = dynamics.masks_to_flows_gpu(labels, device=torch.device("cpu"))
    flows = (CELLPOSE_FLOW_SCALE * unit_flows).astype(np.float32)
    logits = np.where(labels > 0, np.float32(6), np.float32(-6))

    def run() -> dict[str, float]:
        seconds: dict[str, float] = {}
        with stopwatch(seconds, "normalise"):
            normalised = transforms.normalize_img(transforms.convert_image(image)[np.newaxis])
        with stopwatch(seconds, "network"):
            core.run_net(network, normalised, batch_size=8, bsize=256, tile_overlap=0.1)
        with stopwatch(seconds, "post"):  # the arguments are the defaults of CellposeModel.eval
            found = dynamics.resize_and_compute_masks(flows, logits, niter=200, flow_threshold=0.4, min_size=15)
        np.save(save, found.astype(np.int32))
        return {**seconds, "objects": int(found.max())}

    core.run_net(network, np.zeros((1, 256, 256, 3), np.float32), bsize=256)
    return run


def abbe_round(image: np.ndarray, save: Path, name: str) -> Round:
    import abbe

    model = abbe.load(name)

    def run() -> dict[str, float]:
        seconds: dict[str, float] = {}
        with stopwatch(seconds, "segmentation"):
            model.predict(image, measure=False)
        with stopwatch(seconds, "both"):  # objects are measured while the next tiles are computed
            result = model.predict(image)
        np.save(save, result.labels)
        measurement = seconds.pop("both") - seconds["segmentation"]
        return {**seconds, "measurement": measurement, "objects": len(result.objects)}

    model.predict(image[:512, :512])
    return run


def prepare(program: str, folder: Path, model: str) -> Round:
    image, labels = np.load(folder / "image.npy"), consecutive(np.load(folder / "labels.npy"))
    save = folder / f"{program}_labels.npy"
    if program == "abbe":
        return abbe_round(image, save, model)
    if program == "stardist":
        return stardist_round(image, labels, save)
    return cellpose_round(image, labels, save, bfloat16=program == "cellpose")


def main() -> None:
    program, folder, model = sys.argv[1], Path(sys.argv[2]), "".join(sys.argv[3:4])
    os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")
    answers = os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)  # what the programs print must not mix with the answers
    run = prepare(program, folder, model)
    print(json.dumps({"version": version(program.split("-")[0])}), file=answers, flush=True)
    for _ in sys.stdin:
        print(json.dumps(run()), file=answers, flush=True)


if __name__ == "__main__":
    main()
