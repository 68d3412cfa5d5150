"""The order in which samples are seen, a pure function of seed and step, and the loader that follows it."""

from __future__ import annotations

import math
import signal
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import lru_cache
from itertools import groupby
from typing import Any, Protocol

import numpy as np
import torch
from torch.utils.data import DataLoader, Dataset

Batch = dict[str, torch.Tensor]
Key = tuple[int, int]


class TrainingSet(Protocol):
    """Samples as dicts of tensors of equal shapes, random by (own seed, epoch, index) alone."""

    def __len__(self) -> int: ...

    def __getitem__(self, index: int, /) -> Batch: ...

    def set_epoch(self, epoch: int) -> None:
        """Change the random numbers of all samples."""


class SampleOrder:
    """Endless passes over a data set, each in its own order and without the last samples that fill no batch.

    The samples of a step depend on the seed and the step only: any step can be asked for without those before
    it, which is what makes a resumed run continue exactly.

    Parameters
    ----------
    size
        Samples in the data set; when they do not fill a batch, it takes them from several passes.
    batch_size
        Samples per step, those of all processes together.
    seed
        Seed of the orders.
    rank, world
        Number of this process and how many there are; each takes its equal part of a step's samples, in order, so
        that a step has the same samples whatever their number.

    Raises
    ------
    ValueError
        When ``batch_size`` is no multiple of ``world``.
    """

    def __init__(self, size: int, batch_size: int, seed: int, rank: int = 0, world: int = 1) -> None:
        if batch_size % world:
            raise ValueError(f"{world} processes cannot share {batch_size} samples equally")
        self.size, self.batch_size, self.seed = size, batch_size, seed
        self.part = range(batch_size)[rank * batch_size // world : (rank + 1) * batch_size // world]
        self.steps_per_pass = max(1, size // batch_size)
        self._passes_per_step = math.ceil(batch_size / size)  # 1, unless the data set is tiny
        self._order = lru_cache(maxsize=2)(self._shuffled)

    def first_pass(self, step: int) -> int:
        """Number of the pass to which a step's first sample belongs; steps of one pass share it."""
        return step // self.steps_per_pass * self._passes_per_step

    def keys(self, step: int) -> list[Key]:
        """Return (pass, index) of this process's samples at a step."""
        first = step % self.steps_per_pass * self.batch_size
        return [self._key(self.first_pass(step), first + place) for place in self.part]

    def _key(self, first_pass: int, place: int) -> Key:
        turn, place = first_pass + place // self.size, place % self.size
        return turn, int(self._order(turn)[place])

    def _shuffled(self, turn: int) -> np.ndarray:
        return np.random.default_rng([self.seed, turn]).permutation(self.size)


class Batches:
    """Batches of the steps ``start`` to ``stop``, prepared by worker processes or in this one.

    When a worker fails or dies, the batches go on in this process, at the same place: the run survives a lack
    of memory, and an error in the data shows itself where it happens. There is no ``__len__``: a resumed run
    may have no batch left and must still reach its last validation.

    Parameters
    ----------
    data
        The samples.
    order
        Which samples belong to a step.
    start, stop
        First step, and the one after the last.
    workers
        Worker processes; 0 for none.
    notify
        Called with a sentence when workers are given up.
    pin_memory
        Copy batches to page-locked memory, from which a GPU fetches faster.
    """

    def __init__(
        self,
        data: TrainingSet,
        order: SampleOrder,
        start: int,
        stop: int,
        *,
        workers: int,
        notify: Callable[[str], None],
        pin_memory: bool = False,
    ) -> None:
        self.data, self.order, self.start, self.stop = data, order, start, stop
        self.workers, self.notify, self.pin_memory = workers, notify, pin_memory

    def __iter__(self) -> Iterator[Batch]:
        step = self.start
        if self.workers:
            try:
                for batch in self._load(step, self.workers):
                    step += 1
                    yield batch
                return
            except Exception as error:
                self.notify(f"loading data with {self.workers} workers failed, going on without: {_reason(error)}")
                self.workers = 0
        yield from self._load(step, 0)

    def _load(self, start: int, workers: int) -> Iterator[Batch]:
        """Load pass by pass: a data set may share its epoch among processes, and none must see it change."""
        steps = _Steps(self.order)
        loader = self._loader(steps, workers)
        for turn, members in groupby(range(start, self.stop), self.order.first_pass):
            steps.chosen = list(members)
            self.data.set_epoch(turn)
            with _own_child_signals():
                batches = iter(loader)
            yield from batches

    def _loader(self, steps: _Steps, workers: int) -> DataLoader[Any]:
        return DataLoader(
            _Keyed(self.data),
            batch_sampler=steps,
            num_workers=workers,
            persistent_workers=workers > 0,
            worker_init_fn=_ignore_interrupts,
            pin_memory=self.pin_memory,
            # its own generator, so that the global random state is the same with and without workers
            generator=torch.Generator().manual_seed(self.order.seed),
        )


class _Steps:
    """The keys of the chosen steps."""

    def __init__(self, order: SampleOrder) -> None:
        self.order = order
        self.chosen: list[int] = []

    def __iter__(self) -> Iterator[list[Key]]:
        return map(self.order.keys, self.chosen)


class _Keyed(Dataset[Batch]):
    """Samples by (pass, index); the pass is told to the data set as its epoch, in whichever process."""

    def __init__(self, data: TrainingSet) -> None:
        self.data = data
        self.turn: int | None = None

    def __getitem__(self, key: Key) -> Batch:
        turn, index = key
        if turn != self.turn:
            self.data.set_epoch(turn)
            self.turn = turn
        return self.data[index]


def _ignore_interrupts(worker: int) -> None:
    """Ctrl-C reaches every process of a terminal; only the main one decides what it means."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)


@contextmanager
def _own_child_signals() -> Iterator[None]:
    """Undo torch's SIGCHLD handler, which would report a dead worker in the middle of a training step.

    Without it the loader notices the death itself within five seconds, where it waits for a batch.
    """
    if not hasattr(signal, "SIGCHLD") or threading.current_thread() is not threading.main_thread():
        yield
        return
    before = signal.getsignal(signal.SIGCHLD)
    try:
        yield
    finally:
        signal.signal(signal.SIGCHLD, before)


def _reason(error: Exception) -> str:
    """The last line is the error itself; those before are the worker's traceback."""
    lines = str(error).strip().splitlines()
    reason = f"{type(error).__name__}: {lines[-1] if lines else ''}"
    return f"{reason} (is there enough memory?)" if "exited unexpectedly" in reason else reason
