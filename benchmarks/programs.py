"""A worker process that times one program; the other end of ``peers_worker.py``."""

from __future__ import annotations

import json
import os
import subprocess
import time
from pathlib import Path
from typing import Any

import numpy as np

import abbe

ALLOCATOR = {
    "MALLOC_MMAP_THRESHOLD_": str(2**31 - 1),
    "MALLOC_TRIM_THRESHOLD_": str(2**31 - 1),
    "MALLOC_TOP_PAD_": str(64 * 2**20),
    "MALLOC_ARENA_MAX": "1",
}
"""The setting that Abbe makes for itself (`abbe.nn.memory`), given to the peers as well."""


class Program:
    """One program on one image.

    Parameters
    ----------
    python
        Interpreter that has the program.
    name
        As ``peers_worker.py`` knows it.
    folder
        With ``image.npy`` and ``labels.npy``; the labels that the program finds go there.
    *model
        Abbe's model.

    Raises
    ------
    OSError, RuntimeError
        Where there is no such interpreter, or the program does not run in it.
    """

    def __init__(self, python: Path, name: str, folder: Path, *model: str):
        self.name, self.folder = name, folder
        self.image = np.load(folder / "image.npy")
        self.labels_file = folder / f"{name}_labels.npy"
        self._log = open(folder / f"{name}.log", "w+")  # noqa: SIM115  # lives as long as the process
        worker = Path(__file__).with_name("peers_worker.py")
        command = [str(python), str(worker), name, str(folder), *model]
        self._process = subprocess.Popen(
            command,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=self._log,
            text=True,
            env=os.environ | ALLOCATOR,
        )
        self.version = self._answer()["version"]

    @property
    def megapixels(self) -> float:
        """Size of the image."""
        return self.image.size / 1e6

    def round(self) -> dict[str, float]:
        """Segment once, measure the labels, give seconds: ``segmentation``, ``measurement``, and the peers' parts."""
        assert self._process.stdin is not None
        print("go", file=self._process.stdin, flush=True)
        seconds = self._answer()
        if "segmentation" not in seconds:
            seconds["segmentation"] = seconds["network"] + seconds["post"]
            found = np.load(self.labels_file)
            begin = time.perf_counter()
            abbe.measure(found, self.image)
            seconds["measurement"] = time.perf_counter() - begin
        seconds["total"] = seconds["segmentation"] + seconds["measurement"]
        return seconds

    def close(self) -> None:
        """Let the worker end."""
        assert self._process.stdin is not None
        self._process.stdin.close()
        self._process.wait()
        self._log.close()

    def _answer(self) -> dict[str, Any]:
        assert self._process.stdout is not None
        line = self._process.stdout.readline()
        if not line:
            self._log.seek(0)
            raise RuntimeError((self._log.read().strip().splitlines() or ["it ended"])[-1])
        return json.loads(line)
