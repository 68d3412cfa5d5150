"""How long a run is, by steps or by the clock."""

from __future__ import annotations

import itertools
from pathlib import Path
from types import ModuleType, SimpleNamespace

import pytest

from abbe.errors import AbbeError
from abbe.train import clock
from abbe.train.clock import Clock
from abbe.train.recipe import TrainConfig


@pytest.fixture
def now(monkeypatch: pytest.MonkeyPatch) -> list[float]:
    time = [0.0]
    monkeypatch.setattr(clock, "time", SimpleNamespace(monotonic=lambda: time[0]))  # of this module alone
    return time


def test_without_minutes_steps_decide(now: list[float]) -> None:
    told = Clock(0, 100)
    now[0] = 1e6
    assert not told.over
    assert told.expected(7) == 100


def test_minutes_end_a_run_before_its_steps(now: list[float]) -> None:
    told = Clock(0, 1000, minutes=1)
    now[0] = 6.0
    assert told.expected(20) == 200  # 20 steps in a tenth of the time
    assert told.left(20) == "54 s"
    assert not told.over
    now[0] = 60.0
    assert told.over
    assert told.expected(180) == 180


def test_steps_end_it_where_they_are_fewer(now: list[float]) -> None:
    told = Clock(0, 100, minutes=10)
    now[0] = 6.0
    assert told.expected(20) == 100
    assert told.left(20) == "24 s"


def test_earlier_parts_count(now: list[float]) -> None:
    told = Clock(50, 1000, minutes=1)
    told.restart(30.0)
    now[0] = 6.0
    assert told.spent == 36.0
    assert told.expected(60) == 100


def test_a_training_ends_by_the_clock_with_its_rate_near_zero(
    toy: ModuleType, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    ticks = itertools.count(step=0.01)
    monkeypatch.setattr(clock, "time", SimpleNamespace(monotonic=lambda: next(ticks)))  # as fast on every machine
    result = toy.train(tmp_path / "run", minutes=0.1, steps=10**6, warmup_steps=0)
    last = result.history.iloc[-1]
    assert 1 <= last["step"] < 10**6
    assert last["learning_rate"] < 0.02 * toy.CONFIG["learning_rate"]
    assert result.last_path.exists()


def test_devices_have_no_common_clock() -> None:
    with pytest.raises(AbbeError, match="train.minutes"):
        TrainConfig(minutes=1, devices=2)
