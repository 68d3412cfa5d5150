"""``abbe doctor``: versions and devices, and whether the main job works on this machine."""

from __future__ import annotations

import importlib.metadata
import platform
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import torch

from abbe import __version__
from abbe.data.synthetic import FluorescenceField, fluorescence_field
from abbe.errors import AbbeError
from abbe.metrics.instances import match, scores
from abbe.model import load_model
from abbe.settings import SegmentSettings
from abbe.tiling.prepare import choose_backend, choose_precision

PACKAGES = ("torch", "lightning", "numpy", "scipy", "scikit-image", "pandas", "tifffile", "openvino")
PASS = 0.8
"""AP at IoU 0.5 on the simulated field from which the self-test passes; the bundled model is well above."""


def check_up(tell: Callable[[str], None]) -> bool:
    """Tell what is installed and which devices there are, run the self-test, and give whether it passed."""
    tell(f"abbe {__version__}, Python {platform.python_version()}, {platform.platform()}")
    for package in PACKAGES:
        tell(f"  {package:14s} {_version(package)}")
    for device in _devices():
        precision = choose_precision("auto", device)
        tell(f"  device {device:7s} {precision}, {choose_backend('auto', device, precision)}")
    try:
        passed, line = _self_test()
    except (AbbeError, OSError, RuntimeError) as error:
        passed, line = False, str(error)
    tell(f"self-test {'passed' if passed else 'FAILED'}: {line}")
    return passed


def _self_test() -> tuple[bool, str]:
    """Segment a simulated field, compare with its truth, and write the result to a temporary folder."""
    simulated = fluorescence_field(FluorescenceField(shape=(256, 256), seed=0))
    model = load_model("nuclei")
    start = time.perf_counter()
    result = model.predict(simulated.image, SegmentSettings())
    with tempfile.TemporaryDirectory() as folder:
        result.save(Path(folder) / "results")
    seconds = time.perf_counter() - start
    precision = scores([match(simulated.labels, np.asarray(result.labels))])["ap50"]
    found, true = result.labels.max(), simulated.labels.max()
    return precision >= PASS, f"{found} of {true} simulated nuclei, AP@0.5 {precision:.2f}, {seconds:.1f} s"


def _devices() -> list[str]:
    here = {"cuda": torch.cuda.is_available(), "mps": torch.backends.mps.is_available(), "cpu": True}
    return [device for device, there in here.items() if there]


def _version(package: str) -> str:
    try:
        return importlib.metadata.version(package)
    except importlib.metadata.PackageNotFoundError:
        return "not installed"
