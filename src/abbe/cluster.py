"""Work on other processes and machines, by Dask: workers of this machine, or any scheduler that Dask can reach.

The model goes to every worker once. A task is one tile of a large image, whose result the worker writes into the tile
store itself, or one whole image if it is small; what comes back is a number or a line. Folders of images and results
have to be at the same place for all. A worker that dies costs what it had in hand: Dask gives it to another.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from typing import Any

from abbe.errors import AbbeError
from abbe.job import Job
from abbe.tiling.prepare import Predictor
from abbe.tiling.store import TileStore

AHEAD = 4
"""Tasks per worker that wait at the scheduler: enough that none is idle, few enough that millions fit."""


class Cluster:
    """A connection to workers.

    Parameters
    ----------
    workers
        Processes to start on this machine.
    address
        Of a scheduler that runs already, such as ``tcp://host:8786``; in place of own workers.
    timeout
        Seconds to wait for it.

    Raises
    ------
    AbbeError
        When Dask is not installed or the scheduler does not answer.
    """

    def __init__(self, workers: int | None = None, address: str | None = None, timeout: float = 20.0):
        try:
            import distributed
        except ImportError as error:
            raise AbbeError("workers need Dask, which is not installed; pip install 'abbe[cluster]'") from error
        self._local: Any = None
        if address is None:
            threads = max((os.cpu_count() or 1) // max(workers or 1, 1), 1)
            self._local = distributed.LocalCluster(
                n_workers=workers,
                threads_per_worker=1,
                processes=True,
                env={"OMP_NUM_THREADS": str(threads)},
                dashboard_address=":0",
                silence_logs="ERROR",
            )
        try:
            self.client = distributed.Client(self._local or address, set_as_default=False, timeout=timeout)
        except (OSError, ValueError) as error:
            raise AbbeError(f"{address}: no Dask scheduler answers there ({error})") from error
        self._sent: dict[int, Any] = {}

    @property
    def dashboard(self) -> str:
        """Where to watch it."""
        return str(self.client.dashboard_link)

    @property
    def size(self) -> int:
        """Threads of all workers: the tasks that run at once."""
        return max(sum(self.client.nthreads().values()), 1)

    def close(self) -> None:
        """Let the workers go."""
        self.client.close()
        if self._local is not None:
            self._local.close()

    def __enter__(self) -> Cluster:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def fill(self, job: Job, store: TileStore, numbers: Sequence[int]) -> Iterator[int]:
        """Do tiles, each by some worker; gives their numbers in order, each when its tile is in the store."""
        predictor = self._send(job.predictor)
        bare = replace(job, method=None, predictor=None)  # type: ignore[arg-type]
        (light,) = self.client.scatter([bare], broadcast=True, hash=False)
        yield from self._in_order(fill_tile, [(predictor, light, store, number) for number in numbers])

    def map(self, function: Callable[..., Any], common: Sequence[Any], items: Sequence[Any]) -> Iterator[Any]:
        """Compute ``function(*common, item)`` of every item; gives the results in order.

        What is in ``common`` goes to every worker once.
        """
        shared = [self._send(one) for one in common]
        yield from self._in_order(function, [(*shared, item) for item in items])

    def _send(self, thing: Any) -> Any:
        """Give every worker a copy, once for all tasks."""
        if id(thing) not in self._sent:
            (future,) = self.client.scatter([thing], broadcast=True, hash=False)
            self._sent[id(thing)] = (future, thing)  # kept, lest another thing get its id
        return self._sent[id(thing)][0]

    def _in_order(self, function: Callable[..., Any], calls: Sequence[tuple[Any, ...]]) -> Iterator[Any]:
        """Keep some tasks waiting, and give results as the calls come."""
        waiting: list[Any] = []
        upcoming = iter(calls)
        try:
            while True:
                while len(waiting) < AHEAD * self.size and (call := next(upcoming, None)) is not None:
                    waiting.append(self.client.submit(function, *call, pure=False))
                if not waiting:
                    return
                yield waiting.pop(0).result()
        finally:
            self.client.cancel(waiting)


def fill_tile(predictor: Predictor, job: Job, store: TileStore, number: int) -> int:
    """Do one tile on a worker, with the model that it holds."""
    if job.predictor is None:
        job.predictor, job.method = predictor, predictor.method
    store.save(number, job.part(number))
    return number
