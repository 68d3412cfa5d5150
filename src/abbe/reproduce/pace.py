"""How far a run is, told now and then with the time left."""

from __future__ import annotations

import time
from collections.abc import Callable

from abbe.train.progress import Clock


class Pace:
    """Counts the steps of a run.

    Parameters
    ----------
    total
        Steps of the whole run.
    tell
        Takes the lines.
    seconds
        Between two lines.
    """

    def __init__(self, total: int, tell: Callable[[str], None], seconds: float = 15.0) -> None:
        self.total, self.done = total, 0
        self._tell, self._seconds = tell, seconds
        self._clock, self._spoken = Clock(0, total), time.monotonic()

    def step(self, summary: str) -> None:
        """Count a step, and tell of it where the last line is old enough or the run is at its end."""
        self.done += 1
        if time.monotonic() - self._spoken < self._seconds and self.done < self.total:
            return
        self._spoken = time.monotonic()
        self._tell(f"{summary}; {self.done} of {self.total} steps, about {self._clock.left(self.done)} left")
