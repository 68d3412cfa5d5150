"""How long a run is, by its steps or by the clock, and how long it will still take."""

from __future__ import annotations

import math
import time


class Clock:
    """Counts a run's time, its earlier parts included.

    Parameters
    ----------
    start, total
        First step of this part of the run, and the one after the last.
    minutes
        Time after which it ends in any case; 0: none.
    spent
        Seconds that earlier parts took.
    """

    def __init__(self, start: int, total: int, minutes: float = 0.0, spent: float = 0.0) -> None:
        self.start, self.total, self.limit = start, total, 60 * minutes or math.inf
        self.restart(spent)

    def restart(self, spent: float) -> None:
        """Count from now, with so many seconds spent before."""
        self.earlier, self.begin = spent, time.monotonic()

    @property
    def spent(self) -> float:
        """Seconds since the run began, without the pauses between its parts."""
        return self.earlier + time.monotonic() - self.begin

    @property
    def over(self) -> bool:
        """Whether the time is used up."""
        return self.spent >= self.limit

    def expected(self, step: int) -> int:
        """Say how many steps there will be in all, at the pace until ``step``: fewer than ``total`` if time ends it."""
        if math.isinf(self.limit) or step <= 0:
            return self.total
        return min(self.total, max(step, round(step * self.limit / max(self.spent, 1e-9))))

    def left(self, step: int) -> str:
        """Say how long the run will still take, validations included; ``?`` before the first step is done."""
        done = step - self.start
        if done <= 0:
            return "?"
        by_steps = (self.spent - self.earlier) / done * (self.total - step)
        return spell_duration(max(0.0, min(by_steps, self.limit - self.spent)))


def spell_duration(seconds: float) -> str:
    """Spell a duration with its two largest units: ``"2 h 05 min"``, ``"3 min 20 s"``, ``"8 s"``."""
    whole = round(seconds)
    if whole >= 3600:
        return f"{whole // 3600} h {whole % 3600 // 60:02d} min"
    return f"{whole // 60} min {whole % 60:02d} s" if whole >= 60 else f"{whole} s"
