"""Ctrl-C and termination that wait for a moment at which the run can be continued."""

from __future__ import annotations

import signal
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType
from typing import Any


class Interrupted(BaseException):
    """A run was asked to end and saved itself; a KeyboardInterrupt would make Lightning exit the process."""


class InterruptGuard:
    """Notes SIGINT and SIGTERM; a second one, or one in a passage that may be cut short, acts at once."""

    def __init__(self) -> None:
        self.asked = False
        self._may_cut = False

    @contextmanager
    def installed(self) -> Iterator[None]:
        """Handle the signals within a ``with`` block; only the main thread may, elsewhere nothing changes."""
        if threading.current_thread() is not threading.main_thread():
            yield
            return
        before: dict[signal.Signals, Any] = {
            number: signal.signal(number, self._handle) for number in (signal.SIGINT, signal.SIGTERM)
        }
        try:
            yield
        finally:
            for number, handler in before.items():
                signal.signal(number, handler)

    @contextmanager
    def may_cut(self) -> Iterator[None]:
        """Mark a passage that changes nothing worth keeping, such as a validation."""
        if self.asked:
            raise Interrupted
        self._may_cut = True
        try:
            yield
        finally:
            self._may_cut = False

    def _handle(self, number: int, frame: FrameType | None) -> None:
        again, self.asked = self.asked, True
        if again or self._may_cut:
            raise Interrupted
