"""Workers that time the networks of one library each, and rounds of all of them in turn."""

from __future__ import annotations

import argparse
import json
import os
import statistics
import subprocess
import sys
from collections.abc import Callable, Sequence
from contextlib import ExitStack, suppress
from pathlib import Path
from typing import Any

from programs import ALLOCATOR

Times = list[float]


class Worker:
    """A process that reads commands, one line of JSON each, and answers each with one line of JSON.

    Parameters
    ----------
    name
        What to call it.
    command
        What to run.
    tuned
        Whether it runs with Abbe's allocator setting.
    log
        File for what it prints besides; nowhere unless given.
    """

    def __init__(self, name: str, command: Sequence[str], *, tuned: bool, log: Path | None = None):
        self.name, self.tuned, self.log = name, tuned, log
        with open(log or os.devnull, "w") as errors:
            self._process = subprocess.Popen(
                command,
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=errors,
                text=True,
                env=os.environ | (ALLOCATOR if tuned else {}),
            )

    @property
    def pid(self) -> int:
        """Of the process."""
        return self._process.pid

    def do(self, name: str, **options: Any) -> Any:
        """Run a command of the worker."""
        self.send(name, **options)
        return self.answer()

    def send(self, name: str, **options: Any) -> None:
        """Begin a command."""
        assert self._process.stdin is not None
        with suppress(BrokenPipeError):  # then there is no answer either
            print(json.dumps({"do": name, **options}), file=self._process.stdin, flush=True)

    def answer(self) -> Any:
        """Wait for what a command gives.

        Raises
        ------
        RuntimeError
            Where the worker has ended.
        """
        assert self._process.stdout is not None
        line = self._process.stdout.readline()
        if not line:
            told = self.log.read_text().strip().splitlines() if self.log else []
            raise RuntimeError(f"{self.name}: {told[-1] if told else 'the worker ended; is the library installed?'}")
        return json.loads(line)

    def close(self) -> None:
        """Let the worker end."""
        assert self._process.stdin is not None
        with suppress(BrokenPipeError):  # of one that has ended
            self._process.stdin.close()
        self._process.wait()


class Contender(Worker):
    """A worker process with the networks of one library.

    Parameters
    ----------
    library
        As ``contender_worker.py`` knows it.
    arguments
        ``threads`` and ``device`` of torch, and the ``clock``.
    tuned
        Whether it runs with Abbe's allocator setting.

    Raises
    ------
    RuntimeError
        Where the library is not installed or the worker ends.
    """

    def __init__(self, library: str, arguments: argparse.Namespace, *, tuned: bool):
        worker = str(Path(__file__).with_name("contender_worker.py"))
        options = [library, str(arguments.threads), arguments.device, arguments.clock]
        super().__init__(library, [sys.executable, worker, *options], tuned=tuned)


def start(stack: ExitStack, libraries: Sequence[str], arguments: argparse.Namespace, *, tuned: bool) -> list[Contender]:
    """Start the workers of all libraries together; they end with the stack."""
    contenders = [Contender(library, arguments, tuned=tuned) for library in libraries]
    for contender in contenders:
        stack.callback(contender.close)
        print(f"{contender.answer()}, {'tuned' if tuned else 'default'} allocator", file=sys.stderr, flush=True)
    return contenders


def in_turns(ways: Sequence[Callable[[], float]], repeats: int, warm: int = 1) -> list[Times]:
    """Take the seconds of each way once a round, every second round in the other order; the first rounds warm up."""
    times: list[Times] = [[] for _ in ways]
    for turn in range(warm + repeats):
        order = list(zip(ways, times, strict=True))
        for way, found in order if turn % 2 == 0 else reversed(order):
            seconds = way()
            if turn >= warm:
                found.append(seconds)
    return times


def ratio(theirs: Times, ours: Times) -> str:
    """Give the median of the ratios of the rounds, and its quartiles."""
    ratios = [one / other for one, other in zip(theirs, ours, strict=True)]
    low, middle, high = statistics.quantiles(ratios, n=4, method="inclusive") if len(ratios) > 1 else ratios * 3
    return f"{middle:.2f}x ({low:.2f} to {high:.2f})"
