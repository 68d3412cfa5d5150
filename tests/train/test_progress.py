"""What is shown and recorded of a run."""

from __future__ import annotations

import io
import json
import math
import sys
from pathlib import Path
from types import SimpleNamespace

import pytest

from abbe.train import clock, progress
from abbe.train.clock import Clock, spell_duration
from abbe.train.progress import Bar, Lines, Log, Silent, open_display, spell_values


def test_one_line_a_minute_without_a_terminal(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    now = [0.0]
    for module in (progress, clock):
        monkeypatch.setattr(module, "time", SimpleNamespace(monotonic=lambda: now[0]))
    display = Lines(Clock(0, 1000))
    for step in range(1, 301):
        now[0] = float(step)
        display.show(step, "loss 0.5")
    lines = capsys.readouterr().err.splitlines()
    assert len(lines) == 5
    assert lines[1] == "step 61/1000, 15 min 39 s left, loss 0.5"


def test_live_bar_on_a_terminal(monkeypatch: pytest.MonkeyPatch) -> None:
    class Terminal(io.StringIO):
        def isatty(self) -> bool:
            return True

    terminal = Terminal()
    monkeypatch.setattr(sys, "stderr", terminal)
    monkeypatch.setenv("TERM", "xterm")
    monkeypatch.setenv("COLUMNS", "120")
    display = open_display(True, Clock(0, 10))
    assert isinstance(display, Bar)
    display.show(4, "loss 0.25, f1 0.8")
    display.note("workers failed")
    display.close()
    assert "4/10" in terminal.getvalue()
    assert "loss 0.25, f1 0.8" in terminal.getvalue()
    assert "workers failed" in terminal.getvalue()


def test_silence_is_silent(capsys: pytest.CaptureFixture[str]) -> None:
    display = open_display(False, Clock(0, 10))
    assert isinstance(display, Silent)
    display.show(1, "loss")
    display.note("something")
    display.close()
    assert capsys.readouterr().err == ""


@pytest.mark.parametrize(
    ("seconds", "words"),
    [
        (0.2, "0 s"),
        (59.4, "59 s"),
        (59.6, "1 min 00 s"),
        (3599, "59 min 59 s"),
        (3660, "1 h 01 min"),
        (90000, "25 h 00 min"),
    ],
)
def test_durations(seconds: float, words: str) -> None:
    assert spell_duration(seconds) == words


def test_values() -> None:
    assert spell_values({"loss": 0.123456, "ap50": 1.0}) == "loss 0.1235, ap50 1"


def test_log_is_one_json_object_a_line(tmp_path: Path) -> None:
    log = Log(tmp_path / "log.jsonl")
    log.write("epoch", loss=math.nan, name="β")
    log.write("end")
    first, second = (json.loads(line) for line in (tmp_path / "log.jsonl").read_text(encoding="utf-8").splitlines())
    assert (first["event"], first["loss"], first["name"], second["event"]) == ("epoch", None, "β", "end")
