"""Many whole images through one network together: read ahead in a thread, computed in batches, finished one by one."""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from abbe.batch import Batch, Find, Outcome
from abbe.data.inputs import Input
from abbe.tiling.prefetch import prefetch

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class Seen:
    """An image as the network is to see it; the image itself is held no longer."""

    pictures: np.ndarray
    """(N, C, size, size) float32, one of each frame."""
    facts: Any
    """What else the verb needs of it."""
    seconds: float
    """Time that reading took."""


@dataclass(frozen=True)
class Waiting:
    """An image on its way through."""

    item: Input
    """Which one."""
    seen: Seen | None = None
    """None where it is to be done alone, or is done already."""
    error: Exception | None = None
    """Why it cannot be read."""


@dataclass(frozen=True)
class Together:
    """How a verb does whole images: given to :meth:`abbe.batch.Batch.run` as ``elsewhere``.

    The images of a batch are computed at once, while those of the next one are read. What cannot be read, and whatever
    fails in a batch, is done alone, so that each image has its own sentence.

    Parameters
    ----------
    see
        Reads an image; None for one of more frames than are computed together.
    compute
        Gives a row for each of the pictures (N, C, size, size).
    finish
        ``finish(seen, rows, seconds, work)`` gives what the batch writes, with the rows of the image's pictures and
        the time that it took.
    alone
        Does an image by itself.
    size
        Pictures that are computed together, about: an image is not divided.
    """

    see: Callable[[Path | str], Seen | None]
    compute: Callable[[np.ndarray], np.ndarray]
    finish: Callable[[Seen, np.ndarray, float, Path], Any]
    alone: Find
    size: int

    def __call__(self, batch: Batch, inputs: Sequence[Input]) -> Iterator[Outcome]:
        """Do the images, and tell of each in its turn."""
        for group in prefetch(self._groups(batch, inputs)):
            started = time.perf_counter()
            rows = self._rows(group)
            share = (time.perf_counter() - started) / max(1, sum(map(_pictures, group)))
            for waiting, own in zip(group, rows, strict=True):
                yield batch.do(waiting.item, self._find(waiting, own, share))

    def _groups(self, batch: Batch, inputs: Sequence[Input]) -> Iterator[list[Waiting]]:
        """Read images until there are enough pictures for a batch."""
        group: list[Waiting] = []
        for item in inputs:
            group.append(self._look(batch, item))
            if sum(map(_pictures, group)) >= self.size or len(group) >= self.size:
                yield group
                group = []
        if group:
            yield group

    def _look(self, batch: Batch, item: Input) -> Waiting:
        if batch.is_done(item):
            return Waiting(item)
        try:
            return Waiting(item, self.see(item.path))
        except Exception as error:  # told when its turn comes
            return Waiting(item, error=error)

    def _rows(self, group: Sequence[Waiting]) -> list[np.ndarray | None]:
        """Compute the rows of each image of a group; none of those that are not to be computed, or could not."""
        stacks = [waiting.seen.pictures for waiting in group if waiting.seen is not None]
        found: Iterator[np.ndarray] = iter(())
        if stacks:
            try:
                ends = np.cumsum([len(stack) for stack in stacks])[:-1]
                found = iter(np.split(self.compute(np.concatenate(stacks)), ends))
            except Exception:  # one by one they tell which image it was
                logger.debug("a batch failed", exc_info=True)
                return [None] * len(group)
        return [None if waiting.seen is None else next(found) for waiting in group]

    def _find(self, waiting: Waiting, rows: np.ndarray | None, share: float) -> Find:
        """Give what hands over what is known of an image."""

        def find(path: Path | str, work: Path) -> Any:
            if waiting.error is not None:
                raise waiting.error
            if waiting.seen is None or rows is None:
                return self.alone(path, work)
            return self.finish(waiting.seen, rows, waiting.seen.seconds + share * len(rows), work)

        return find


def _pictures(waiting: Waiting) -> int:
    return 0 if waiting.seen is None else len(waiting.seen.pictures)
