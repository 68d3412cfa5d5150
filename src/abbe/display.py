"""What a run shows while it goes on, and what it says at the end."""

from __future__ import annotations

import time
from typing import Any

from rich.console import Console

out = Console(soft_wrap=True)
err = Console(stderr=True, soft_wrap=True)


class Display:
    """Progress on standard error: a bar on a terminal, otherwise a line for each image, and for long ones some more."""

    QUIET = 60.0
    """Seconds between two lines about one image."""

    def __init__(self) -> None:
        self.bar: Any = None
        self.started = self.spoken = time.monotonic()

    def __enter__(self) -> Display:
        if err.is_terminal:
            from rich.progress import BarColumn, Progress, TextColumn, TimeRemainingColumn

            columns = (TextColumn("{task.description}"), BarColumn(), TextColumn("image"), TimeRemainingColumn())
            self.bar = Progress(*columns, console=err, transient=True)
            self.bar.start()
            self.task = self.bar.add_task("", total=1.0)
        return self

    def __exit__(self, *_: object) -> None:
        if self.bar is not None:
            self.bar.stop()

    def tell(self, line: str) -> None:
        """Print a line, of a finished image or of one that begins."""
        err.print(line, highlight=False, markup=False)
        self.started = self.spoken = time.monotonic()
        if self.bar is not None:
            self.bar.reset(self.task)

    def progress(self, part: float) -> None:
        """Move the bar of the image in hand, or say now and then how long it will take."""
        if self.bar is not None:
            self.bar.update(self.task, completed=part)
            return
        now = time.monotonic()
        if 0 < part < 1 and now - self.spoken >= self.QUIET:
            left = (now - self.started) * (1 - part) / part
            err.print(f"  {part:.0%} done, about {spell_time(left)} left", highlight=False)
            self.spoken = now


def spell_time(seconds: float) -> str:
    """Write a duration to a precision that fits it."""
    minutes = round(seconds / 60)
    if minutes < 1:
        return f"{seconds:.0f} s"
    return f"{minutes} min" if minutes < 120 else f"{minutes / 60:.1f} h"


def close(result: Any) -> int:
    """Say what came of a batch, and give the exit code: 0 all, 1 some, 2 none, 130 stopped."""
    done = len(result.images)
    if done:
        objects = f"{int(result.images['count'].sum())} objects in " if "count" in result.images else ""
        skipped = f", {result.skipped} of them by an earlier run" if result.skipped else ""
        images = f"{done} image{'s' * (done != 1)}"
        print_line(f"{objects}{images}{skipped}: {result.folder / 'report.html'}")
    if result.failures:
        err.print(f"{len(result.failures)} failed:", highlight=False)
        for _, reason in result.failures:
            err.print(f"  {reason}", highlight=False, markup=False)
    if result.interrupted:
        err.print("stopped; what is finished stays, and the same command goes on", highlight=False)
        return 130
    if result.failures:
        return 1 if done else 2
    return 0


def spell(value: Any) -> str:
    """Write a value on one line."""
    if isinstance(value, dict):
        return ", ".join(f"{key} {spell(item)}" for key, item in value.items())
    if isinstance(value, float):
        return f"{value:g}"
    return ", ".join(map(str, value)) if isinstance(value, list | tuple) else str(value)


def print_line(text: str) -> None:
    """Print as it is: no wrapping, no markup."""
    out.print(text, highlight=False, markup=False)
