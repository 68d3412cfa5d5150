"""Work on other processes and machines, by Dask: workers of this machine, or any scheduler that Dask can reach.

The model goes to every worker once. A task is one tile of a large image, whose result the worker writes into the tile
store itself, or one whole image if it is small; what comes back is a number or a line. Folders of images and results
have to be at the same place for all. A worker that dies costs what it had in hand: Dask gives it to another.
"""

from __future__ import annotations

import logging
import os
import time
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import CancelledError
from contextlib import ExitStack, contextmanager
from dataclasses import replace
from functools import partial
from itertools import islice
from typing import Any

from abbe.errors import AbbeError, reason
from abbe.job import Job
from abbe.tiling.prepare import Predictor
from abbe.tiling.store import TileStore

AHEAD = 4
"""Tasks per worker that wait at the scheduler: enough that none is idle, few enough that millions fit."""
PER_CORE = 32
"""Workers per core of this machine, above which their number can only be a mistake."""
LOSSES = 5
"""How often all workers at once may lose what was sent to them before that ends the run."""
POLL = 5.0
"""Seconds between looks at whether anybody still works."""
IGNORE_CTRL_C = "import signal; signal.signal(signal.SIGINT, signal.SIG_IGN)"
"""A terminal sends Ctrl-C to all processes; the workers shall end when this one lets them go, and not with an error."""
CANCELLED_UNTOLD = "import logging; logging.getLogger('distributed.worker.state_machine').setLevel(logging.ERROR)"
"""A worker that is let go in the midst of a task warns of it."""
GONE = (
    "the connection to the Dask scheduler is lost; see whether it still runs, then repeat the command: finished tiles "
    "and images are kept"
)
logger = logging.getLogger(__name__)


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
    patience
        Seconds to go on without a single worker, once there were some. Before the first has come there is no limit,
        as the queue of a computing centre has none.

    Raises
    ------
    AbbeError
        When Dask is not installed, the number of workers makes no sense, or the scheduler does not answer.
    """

    def __init__(
        self, workers: int | None = None, address: str | None = None, timeout: float = 5.0, patience: float = 300.0
    ):
        if address is not None and workers is not None:
            raise AbbeError(f"{workers} workers here or those of {address}? Give either --workers or --cluster")
        if workers is not None:
            _check_number(workers)
        _dask()
        self.patience = patience
        self._sent: dict[int, Any] = {}
        self._losses, self._slots, self._counted, self._had_workers = 0, 0, 0.0, False
        with ExitStack() as stack:
            stack.enter_context(_quiet())
            local = None if address is not None else stack.enter_context(_start(workers))
            try:
                self.client = _connect(local or address, timeout)
            except (OSError, TypeError, ValueError) as error:
                raise AbbeError(
                    f"{address}: no Dask scheduler answers there ({reason(error)}); is it running, and is this the "
                    "address that it told, such as tcp://host:8786?"
                ) from error
            stack.callback(_disconnect, self.client)
            self._opened = stack.pop_all()

    @property
    def dashboard(self) -> str:
        """Where to watch it."""
        return str(self.client.dashboard_link)

    @property
    def size(self) -> int:
        """Threads of all workers: the tasks that run at once."""
        return max(self._count(), 1)

    def close(self) -> None:
        """Let the workers go."""
        self._opened.close()

    def __enter__(self) -> Cluster:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def fill(self, job: Job, store: TileStore, numbers: Sequence[int]) -> Iterator[int]:
        """Do tiles, each by some worker; gives their numbers in order, each when its tile is in the store."""
        bare = replace(job, method=None, predictor=None)  # type: ignore[arg-type]
        name = getattr(job.read, "name", "image")
        try:
            yield from self._in_order(fill_tile, (job.predictor, bare, store), numbers, f"{name}, tile {{}}".format)
        finally:
            for passing in (bare, store):
                self._sent.pop(id(passing), None)

    def map(
        self,
        function: Callable[..., Any],
        common: Sequence[Any],
        items: Sequence[Any],
        lost: Callable[[Any, AbbeError], Any] | None = None,
    ) -> Iterator[Any]:
        """Compute ``function(*common, item)`` of every item; gives the results in order.

        What is in ``common`` goes to every worker once. The result of an item that killed worker after worker is
        ``lost(item, error)``; without that it ends the run.
        """
        yield from self._in_order(function, common, items, lambda item: str(getattr(item, "path", item)), lost)

    def _in_order(
        self,
        function: Callable[..., Any],
        common: Sequence[Any],
        items: Sequence[Any],
        name: Callable[[Any], str],
        lost: Callable[[Any, AbbeError], Any] | None = None,
    ) -> Iterator[Any]:
        """Keep some tasks waiting, and give results as the items come."""
        from distributed import KilledWorker

        def submit(item: Any) -> tuple[Any, Any]:
            return item, self.client.submit(function, *map(self._send, common), item, pure=False)

        waiting: list[tuple[Any, Any]] = []
        upcoming, suspected = iter(items), False
        try:
            while True:
                room = AHEAD * self._await_workers(recent=1.0) - len(waiting)
                waiting += map(submit, islice(upcoming, max(room, 0)))
                if not waiting:
                    return
                item, future = waiting[0]
                try:
                    result = self._await_end(future)
                except CancelledError:  # what was sent is nowhere any more
                    self._lose()
                    waiting = [submit(item) for item, _ in waiting]
                    continue
                except KilledWorker as error:
                    if not suspected:  # perhaps it only waited beside the one that kills
                        suspected, waiting[0] = True, submit(item)
                        continue
                    result = _deadly(name(item), error, lost and partial(lost, item))
                self._losses, suspected = 0, False
                waiting.pop(0)
                future.release()  # else its finaliser does, and a Ctrl-C that falls into a finaliser is lost
                yield result
        finally:
            self.client.cancel([future for _, future in waiting])

    def _send(self, thing: Any) -> Any:
        """Give every worker a copy, once for all tasks."""
        while id(thing) not in self._sent:
            try:
                (future,) = self.client.scatter([thing], broadcast=True, hash=False)
                self._sent[id(thing)] = (future, thing)  # kept, lest another thing get its id
            except (KeyError, OSError, TimeoutError):  # those that it went to have died meanwhile
                self._lose()
        return self._sent[id(thing)][0]

    def _await_end(self, future: Any) -> Any:
        """Wait for what a task gives, as long as there is somebody to do it."""
        while not future.done():
            try:
                future.exception(timeout=POLL)
            except TimeoutError:
                self._await_workers()
        return future.result()

    def _await_workers(self, recent: float = 0.0) -> int:
        """Wait until there is a worker; gives the tasks that all do at once, as it was some seconds ago at most."""
        start, told = time.monotonic(), False
        while not self._slots or self._counted < start - recent:
            self._slots, self._counted = self._count(), time.monotonic()
            if self._slots:
                self._had_workers = True
                break
            if not told:
                logger.warning("no worker is there; waiting for one (%s)", self.dashboard)
                told = True
            if self._had_workers and time.monotonic() - start > self.patience:
                raise AbbeError(
                    f"all workers are gone, and none has come for {self.patience:g} s; start some, then repeat the "
                    "command: finished tiles and images are kept"
                )
            time.sleep(min(POLL, 0.2 + self.patience / 10))
        return self._slots

    def _count(self) -> int:
        """Count the threads of all workers; a scheduler that is gone is told."""
        try:
            if self.client.status == "running":
                return sum(self.client.nthreads().values())
        except (OSError, RuntimeError, TimeoutError) as error:
            raise AbbeError(GONE) from error
        raise AbbeError(GONE)

    def _lose(self) -> None:
        """Forget what was sent: all that held it are gone, but others may have come."""
        self._sent.clear()
        self._losses += 1
        if self._losses > LOSSES:
            raise AbbeError(
                f"all workers died at once {self._losses} times, mostly for lack of memory; take fewer of them with "
                "--workers, or smaller tiles with --tile"
            )
        self._await_workers()


def _check_number(workers: int) -> None:
    cores = os.cpu_count() or 1
    if workers < 1:
        raise AbbeError(f"--workers {workers}: expected 1 or more; without --workers this process does the work itself")
    if workers > PER_CORE * cores:
        raise AbbeError(
            f"--workers {workers}: this machine has {cores} cores, and more workers than cores only cost memory; "
            "for more machines see --cluster"
        )


def _dask() -> Any:
    """Import Dask, which brings a second of work and is an extra."""
    try:
        import distributed
    except ImportError as error:
        raise AbbeError("workers need Dask, which is not installed; pip install 'abbe[cluster]'") from error
    return distributed


@contextmanager
def _start(workers: int | None) -> Iterator[Any]:
    """Start processes on this machine, and end them."""
    distributed = _dask()
    threads = max((os.cpu_count() or 1) // max(workers or 1, 1), 1)
    try:
        local = distributed.LocalCluster(
            n_workers=workers,
            threads_per_worker=1,
            processes=True,
            env={"OMP_NUM_THREADS": str(threads)},
            dashboard_address=":0",
            preload=[IGNORE_CTRL_C, CANCELLED_UNTOLD],
            scheduler_kwargs={"allowed_failures": 1},
        )
    except (OSError, RuntimeError, TimeoutError) as error:
        raise AbbeError(f"--workers {workers}: they do not start ({reason(error)}); try fewer") from error
    try:
        yield local
    finally:
        local.close()


def _connect(target: Any, timeout: float) -> Any:
    """Connect to a scheduler; what is left of a vain attempt is closed here.

    Left to the garbage collector, its finaliser can wait for ever for a lock that its own thread holds, as when the
    collector runs while another cluster starts.
    """
    import distributed

    class Client(distributed.Client):
        def start(self, **options: Any) -> None:
            try:
                super().start(**options)
            except BaseException:
                _disconnect(self)
                raise

    return Client(target, set_as_default=False, timeout=timeout)


def _disconnect(client: Any) -> None:
    """Close a client; in the midst of connecting to a scheduler that is gone its first try can fail half-way."""
    try:
        client.close()
    except RuntimeError:
        client.close()


@contextmanager
def _quiet() -> Iterator[None]:
    """Let Dask keep to itself what it logs of workers that come and go; what matters is told here."""
    loggers = [logging.getLogger(name) for name in ("distributed", "distributed.client")]
    levels = [one.level for one in loggers]
    for one in loggers:
        one.setLevel(logging.CRITICAL)
    try:
        yield
    finally:
        for one, level in zip(loggers, levels):
            one.setLevel(level)


def _deadly(name: str, error: Exception, lost: Callable[[AbbeError], Any] | None) -> Any:
    """Say that a task kills workers, or let it count as lost."""
    told = AbbeError(
        f"{name}: worker after worker died over it, mostly for lack of memory; take fewer of them with --workers, or "
        "smaller tiles with --tile"
    )
    if lost is None:
        raise told from error
    return lost(told)


def fill_tile(predictor: Predictor, job: Job, store: TileStore, number: int) -> int:
    """Do one tile on a worker, with the model that it holds."""
    if job.predictor is None:
        job.predictor, job.method = predictor, predictor.method
    store.save(number, job.part(number))
    return number
