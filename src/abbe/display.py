"""What a run shows while it goes on."""

from __future__ import annotations

import time
from typing import Any

from rich.console import Console

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
