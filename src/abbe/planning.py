"""What a run on one image will take, said before it begins: tiles, memory, and which option would fit."""

from __future__ import annotations

import copy
import math
import os
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from abbe.contract import Method
from abbe.data.select import Series
from abbe.data.stored_labels import OPEN_BYTES
from abbe.data.write import BAND
from abbe.job import BATCH, Job
from abbe.nn.live_bytes import live_bytes
from abbe.report.table import IN_MEMORY as IN_TABLE
from abbe.segmentation import IN_MEMORY
from abbe.tiling.grid import fit
from abbe.tiling.merge import MAX_WAITING

GIB = 2**30
LONG = 16
"""Tiles from which a run is announced."""
PROCESS = 510 * 2**20
"""Bytes of Python, its libraries and a model, before the first pixel."""
AT_HAND = 48
"""Bytes per pixel of a tile for what is read ahead, decoded and measured while the network computes."""
WAITING = 9
"""Bytes per pixel of foreground that waits for the next row of tiles."""
OBJECT = 2000
"""Pixels of an image, for each of which one object is expected."""
ROW, SUMMARY = 600, 130
"""Bytes of an object's row and, of one whose row lies in a file, of its summary, both while they are joined."""
BANDS = 5
"""Bands of labels that are in memory while a TIFF is written."""
UNFINISHED = 0.25
"""Bytes per pixel on the disk of finished tiles and of labels, compressed: 0.17 of nuclei, more of crowded crumbs."""
PICTURE = 24
"""Bytes per pixel of the overlay while it is drawn."""
PICTURE_SIDE = 4096
SMALLER = (1024, 768, 512, 384, 256, 192, 128, 96, 64, 48, 32)
"""Tiles to suggest where memory is short."""


@dataclass(frozen=True)
class Plan:
    """How an image will be worked on."""

    model: str
    """Its name."""
    channels: str
    """What the network gets of them."""
    extents: tuple[int, ...]
    """Pixels of a frame, (Z,) Y, X."""
    frames: int
    """Planes or time points that are worked on one by one."""
    scale: tuple[float, ...]
    """Factor per axis at which the network sees a frame."""
    tiles: int
    """Of all frames."""
    tile: tuple[int, ...]
    """Pixels per axis that the network sees at once."""
    device: str
    """Where it computes."""
    precision: str
    """In what numbers, and by what: such as "bfloat16 (openvino)"."""
    memory: int
    """Bytes that the process will take, estimated."""
    available: int | None
    """Bytes that are free; None where the system does not tell."""
    disk: int
    """Bytes of tiles and labels that lie in files while the run goes on, estimated; 0 where that is little."""
    fitting: int | None
    """A tile with which memory would suffice, where it does not."""

    def __str__(self) -> str:
        """Say it in one or two sentences."""
        size = " x ".join(map(str, self.extents)) + " px"
        size = f"{self.frames} frames of {size}" if self.frames > 1 else size
        factors = dict.fromkeys(f"{factor:.2f}" for factor in self.scale)
        seen = "at its own size" if set(factors) == {"1.00"} else f"scaled by {' x '.join(factors)}"
        tiles = f"{self.tiles} tile{'s' * (self.tiles > 1)} of {' x '.join(map(str, self.tile))}"
        disk = f" and {_spell(self.disk)} of disk" if self.disk else ""
        return (
            f"model {self.model!r} takes {self.channels}, {size} {seen}, in {tiles} on {self.device} in "
            f"{self.precision}; about {_spell(self.memory)} of memory{disk}{self._shortage()}"
        )

    def _shortage(self) -> str:
        if self.available is None or self.memory <= self.available:
            return ""
        remedy = f"--tile {self.fitting} would fit" if self.fitting else "no tile is small enough, free some"
        return f". Only {_spell(self.available)} are free: {remedy}"


def announce(plan: Plan, image: str, tell: Callable[[str], None]) -> None:
    """Tell of a run that will take long, or for which memory is short."""
    if plan.tiles >= LONG or (plan.available is not None and plan.memory > plan.available):
        tell(f"{image}: {plan}")


def plan_job(job: Job, series: Series, model: str) -> Plan:
    """Work out what a job will take."""
    first = series[0]
    channels = "colour" if first.rgb else f"{first.n_channels} channel{'s' * (first.n_channels > 1)}"
    available, held = available_memory(), series.image.held
    memory = needed(job, job.tile, held)
    tile = tuple(min(side, extent) for side, extent in zip(job.tile, job.seen, strict=True))
    return Plan(
        model=model,
        channels=channels,
        extents=job.shape,
        frames=job.frames,
        scale=job.scale,
        tiles=len(job),
        tile=tile,
        device=job.predictor.device,
        precision=f"{job.predictor.precision} ({job.predictor.backend})",
        memory=memory,
        available=available,
        disk=round(UNFINISHED * _pixels(job)) if _pixels(job) > IN_MEMORY else 0,
        fitting=_fitting(job, available, held) if available is not None and memory > available else None,
    )


def needed(job: Job, tile: tuple[int, ...], held: int = 0) -> int:
    """Estimate the bytes of main memory that a job takes with tiles of an extent, and an image that holds some."""
    inside = [min(side, extent) for side, extent in zip(tile, job.seen, strict=True)]
    pixels = math.prod(inside)
    network = 0
    if job.predictor.device == "cpu":
        half = 2 if job.predictor.precision == "bfloat16" else 1
        network = round(bytes_per_pixel(job.method) * pixels / half) * BATCH["cpu"]
    running = network + AT_HAND * pixels + _waiting(job, tile)
    labels = 4 * _pixels(job)
    if _pixels(job) > IN_MEMORY:
        labels, running = 0, running + OPEN_BYTES
    picture = PICTURE * min(math.prod(job.shape[-2:]), PICTURE_SIDE**2)
    writing = BANDS * 4 * BAND * job.shape[-1]
    return PROCESS + held + labels + _tables(job) + max(running, picture, writing)


def _waiting(job: Job, tile: tuple[int, ...]) -> int:
    """Bytes of what waits for the next row of tiles, were all of a row foreground."""
    if job.seen[0] <= tile[0]:
        return 0
    row = math.prod(job.shape) * tile[0] // job.seen[0]
    return WAITING * min(row, MAX_WAITING)


def _tables(job: Job) -> int:
    """Bytes of the rows of objects, which go to a file where they are many, and of their summaries."""
    objects = _pixels(job) // OBJECT
    return ROW * min(objects, IN_TABLE) + SUMMARY * objects


def bytes_per_pixel(method: Method) -> float:
    """Estimate what the activations of a method take, in float32."""
    geometry, halos = method.geometry, _halos(method)
    sides = [
        fit(64 + 2 * halo, multiple, remainder)
        for halo, multiple, remainder in zip(halos, geometry.multiple, geometry.remainder, strict=True)
    ]
    assert isinstance(method, torch.nn.Module)
    weightless: Any = copy.deepcopy(method).to("meta")
    predict: Callable[[torch.Tensor], Any] = weightless.predict
    return live_bytes(predict, torch.zeros(1, method.in_channels, *sides, device="meta")) / math.prod(sides)


def available_memory() -> int | None:
    """Give the bytes of memory that are free, or None where the system does not tell."""
    free = []
    meminfo = Path("/proc/meminfo")
    if meminfo.exists():
        fields = dict(line.split(":") for line in meminfo.read_text().splitlines())
        free.append(1024 * int(fields["MemAvailable"].split()[0]))
    elif hasattr(os, "sysconf") and "SC_AVPHYS_PAGES" in os.sysconf_names:
        free.append(os.sysconf("SC_AVPHYS_PAGES") * os.sysconf("SC_PAGE_SIZE"))
    limit, used = Path("/sys/fs/cgroup/memory.max"), Path("/sys/fs/cgroup/memory.current")
    if limit.exists() and used.exists() and limit.read_text().strip() != "max":
        free.append(int(limit.read_text()) - int(used.read_text()))
    return min(free, default=None)


def _fitting(job: Job, available: int, held: int) -> int | None:
    if job.method.geometry.halo is None:  # the network needs the whole image
        return None
    least = max(2 * halo + multiple for halo, multiple in zip(_halos(job.method), job.method.geometry.multiple))
    smaller = [side for side in SMALLER if least <= side < max(job.tile)]
    return next((side for side in smaller if needed(job, (side,) * len(job.tile), held) <= available), None)


def _halos(method: Method) -> tuple[int, ...]:
    return method.geometry.halo or (0,) * len(method.geometry.multiple)


def _pixels(job: Job) -> int:
    return job.frames * math.prod(job.shape)


def _spell(size: int) -> str:
    return f"{size / GIB:.1f} GiB" if size >= GIB / 10 else f"{size / 2**20:.0f} MiB"
