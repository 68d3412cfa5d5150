"""How far a run is, told now and then with the time left."""

from __future__ import annotations

import time
from collections.abc import Callable

from abbe.train.clock import Clock


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

    def step(self, summary: str, weight: int = 1) -> None:
        """Count a step, or one as long as so many, and tell of it where the last line is old or the run at its end."""
        self.done += weight
        if time.monotonic() - self._spoken < self._seconds and self.done < self.total:
            return
        self._spoken = time.monotonic()
        self._tell(f"{summary}; {self.done / self.total:.0%}, about {self._clock.left(self.done)} left")
