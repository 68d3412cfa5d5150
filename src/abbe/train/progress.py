"""What is seen of a run while it goes: a live bar in a terminal, a line a minute elsewhere, a log file."""

from __future__ import annotations

import json
import math
import sys
import time
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Protocol

from rich.console import Console
from rich.progress import BarColumn, Progress, TextColumn

from abbe.train.clock import Clock

SECONDS_BETWEEN_LINES = 60.0


class Display(Protocol):
    """Where the state of a run is shown."""

    def show(self, step: int, summary: str) -> None:
        """Show how far the run is; ``summary`` holds loss and metrics."""

    def note(self, sentence: str) -> None:
        """Tell something that happens once."""

    def close(self) -> None:
        """End the display."""


def open_display(wanted: bool, clock: Clock) -> Display:
    """Choose a display for standard error: silent, a live bar on a terminal, or lines."""
    if not wanted:
        return Silent()
    return Bar(clock) if sys.stderr.isatty() else Lines(clock)


class Silent:
    """Shows nothing; the log file still has it all."""

    def show(self, step: int, summary: str) -> None:
        """Show nothing."""

    def note(self, sentence: str) -> None:
        """Show nothing."""

    def close(self) -> None:
        """Nothing is open."""


class Bar:
    """A live bar with the time left, loss and metrics."""

    def __init__(self, clock: Clock) -> None:
        self._clock = clock
        columns = ("training", BarColumn(), "{task.completed}/{task.total}", "{task.fields[left]} left")
        summary = TextColumn("{task.fields[summary]}", markup=False)
        self._bar = Progress(*columns, summary, console=Console(stderr=True), refresh_per_second=4)
        task: dict[str, Any] = {"total": clock.total, "completed": clock.start, "left": "?", "summary": ""}
        self._task = self._bar.add_task("training", **task)
        self._bar.start()

    def show(self, step: int, summary: str) -> None:
        """Move the bar."""
        left, total = self._clock.left(step), self._clock.expected(step)
        self._bar.update(self._task, completed=step, total=total, left=left, summary=summary)

    def note(self, sentence: str) -> None:
        """Print a sentence above the bar."""
        self._bar.console.print(sentence, markup=False, highlight=False)

    def close(self) -> None:
        """Leave the bar as it is and go to the next line."""
        self._bar.stop()


class Lines:
    """A line a minute, for the log files of clusters."""

    def __init__(self, clock: Clock) -> None:
        self._clock = clock
        self._last = -math.inf

    def show(self, step: int, summary: str) -> None:
        """Print a line when the last is a minute old."""
        if time.monotonic() - self._last >= SECONDS_BETWEEN_LINES:
            self._last = time.monotonic()
            self.note(f"step {step}/{self._clock.expected(step)}, {self._clock.left(step)} left, {summary}")

    def note(self, sentence: str) -> None:
        """Print a sentence."""
        print(sentence, file=sys.stderr, flush=True)

    def close(self) -> None:
        """Nothing is open."""


def spell_values(values: dict[str, float]) -> str:
    """Spell named numbers on one line, four significant digits each."""
    return ", ".join(f"{name} {value:.4g}" for name, value in values.items())


class Log:
    """One JSON object per line: what happened, when; nothing without a path."""

    def __init__(self, path: Path | None) -> None:
        self.path = path

    def write(self, event: str, **values: Any) -> None:
        """Append a line; numbers that JSON cannot hold become null."""
        if self.path is None:
            return
        record = {"time": datetime.now(UTC).isoformat(timespec="seconds"), "event": event, **values}
        plain = {key: None if isinstance(v, float) and not math.isfinite(v) else v for key, v in record.items()}
        with self.path.open("a", encoding="utf-8") as file:
            file.write(json.dumps(plain, ensure_ascii=False) + "\n")
