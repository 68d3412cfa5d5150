"""Peak memory of a command and all processes it starts, without the pages that files back (Linux only).

Pages of mapped files (libraries, an image that is read lazily) can be dropped at any time, so they are no demand;
anonymous and shared pages are. The tree is sampled every 50 ms.
"""

from __future__ import annotations

import subprocess
import threading
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import psutil

INTERVAL = 0.05
"""Seconds between samples, at least."""
LEAST_PAUSE = 20
"""Times as long as a sample takes: walking the pages of a large process must not slow it down."""


@dataclass
class Run:
    """What a command took."""

    demand: int = 0
    """Largest sum of anonymous and shared pages over the tree, in bytes."""
    resident: int = 0
    """Largest sum of all resident pages over the tree, in bytes."""
    seconds: float = 0.0
    """Wall time."""
    exit_code: int = 0


def watch(command: Sequence[str]) -> Run:
    """Run a command to its end and sample its memory; its output goes where ours goes."""
    start = time.perf_counter()
    process = subprocess.Popen(command)
    with sampled(process.pid) as run:
        run.exit_code = process.wait()
    run.seconds = time.perf_counter() - start
    return run


@contextmanager
def sampled(pid: int) -> Iterator[Run]:
    """Sample the memory of a process and those it starts within a ``with`` block."""
    run, ended = Run(), threading.Event()
    sampler = threading.Thread(target=_sample, args=(pid, run, ended))
    sampler.start()
    try:
        yield run
    finally:
        ended.set()
        sampler.join()


def _sample(pid: int, run: Run, ended: threading.Event) -> None:
    pause = INTERVAL
    while not ended.wait(pause):
        began = time.thread_time()
        sizes = [_sizes(process) for process in _tree(pid)]
        run.demand = max(run.demand, sum(size.get("Pss_Anon", 0) + size.get("Pss_Shmem", 0) for size in sizes))
        run.resident = max(run.resident, sum(size.get("Pss", 0) for size in sizes))
        pause = max(INTERVAL, LEAST_PAUSE * (time.thread_time() - began))


def _tree(pid: int) -> list[int]:
    try:
        return [pid, *(child.pid for child in psutil.Process(pid).children(recursive=True))]
    except psutil.NoSuchProcess:
        return []


def _sizes(pid: int) -> dict[str, int]:
    """Read a process's memory in bytes, pages that it shares with others by its part; nothing of one that has ended."""
    try:
        lines = Path(f"/proc/{pid}/smaps_rollup").read_text().splitlines()
    except OSError:
        return {}
    entries = (line.split() for line in lines if line.endswith(" kB"))
    return {name.rstrip(":"): int(kilobytes) * 1024 for name, kilobytes, _ in entries}
