"""Running means of the named losses, and the watch for numbers that are none."""

from __future__ import annotations

import math
from typing import Any

import torch

from abbe.errors import AbbeError

STEPS_BETWEEN_LOOKS = 20  # each look makes the processor wait for the GPU


class LossRecord:
    """Sums of an epoch's losses; on a GPU they are looked at only now and then."""

    def __init__(self) -> None:
        self.sums: dict[str, float] = {}
        self.count = 0
        self.latest: dict[str, float] = {}
        self._waiting: list[tuple[int, dict[str, torch.Tensor]]] = []

    def add(self, step: int, losses: dict[str, torch.Tensor]) -> None:
        """Take in the losses of a step.

        Raises
        ------
        AbbeError
            When a loss to descend is infinite or not a number, naming the step.
        """
        self._waiting.append((step, losses))
        on_cpu = all(value.device.type == "cpu" for value in losses.values())
        if on_cpu or len(self._waiting) >= STEPS_BETWEEN_LOOKS:
            self.look()

    def look(self) -> None:
        """Read the losses that still wait on their device."""
        waiting, self._waiting = self._waiting, []
        for step, losses in waiting:
            self.latest = {name: float(value) for name, value in losses.items()}
            self._check(step)
            for name, value in self.latest.items():
                self.sums[name] = self.sums.get(name, 0.0) + value
            self.count += 1

    def _check(self, step: int) -> None:
        for name, value in self.latest.items():
            if name.rpartition("/")[2] == "loss" and not math.isfinite(value):
                raise AbbeError(
                    f"training diverged: {name} is {value} at step {step}; try a lower train.learning_rate,"
                    " more train.warmup_steps, train.precision=float32, or look for NaN in the images"
                )

    def means(self) -> dict[str, float]:
        """Average since the last reset."""
        self.look()
        return {name: total / max(1, self.count) for name, total in self.sums.items()}

    def reset(self) -> None:
        """Begin a new epoch."""
        self.sums, self.count = {}, 0

    def state_dict(self) -> dict[str, Any]:
        """Return sums and count, so that a resumed epoch has the same means."""
        self.look()
        return {"sums": dict(self.sums), "count": self.count}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Continue an epoch."""
        self.sums, self.count = dict(state["sums"]), state["count"]
