"""The order of samples, and loading that survives its workers."""

from __future__ import annotations

import os
import signal
from types import ModuleType

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from abbe.train.batches import Batches, SampleOrder

sizes = st.integers(1, 40)


@settings(deadline=None, max_examples=40)
@given(sizes, st.integers(1, 9), st.integers(0, 3))
def test_no_sample_comes_twice_in_a_pass(size: int, batch_size: int, seed: int) -> None:
    order = SampleOrder(size, batch_size, seed)
    keys = [key for step in range(12) for key in order.keys(step)]
    assert len(keys) == 12 * batch_size
    assert len(set(keys)) == len(keys)
    assert all(0 <= index < size for _, index in keys)


@settings(deadline=None, max_examples=40)
@given(sizes, st.integers(1, 9), st.integers(0, 200))
def test_a_step_does_not_depend_on_those_before(size: int, batch_size: int, step: int) -> None:
    walked = SampleOrder(size, batch_size, 5)
    for earlier in range(step):
        walked.keys(earlier)
    assert walked.keys(step) == SampleOrder(size, batch_size, 5).keys(step)


@settings(deadline=None, max_examples=40)
@given(sizes, st.integers(1, 5), st.integers(1, 4), st.integers(0, 200))
def test_processes_share_the_batch_of_one_equally(size: int, share: int, world: int, step: int) -> None:
    orders = [SampleOrder(size, share * world, 5, rank, world) for rank in range(world)]
    parts = [order.keys(step) for order in orders]
    assert [len(part) for part in parts] == [share] * world
    assert [key for part in parts for key in part] == SampleOrder(size, share * world, 5).keys(step)
    assert {order.first_pass(step) for order in orders} == {SampleOrder(size, share * world, 5).first_pass(step)}


def test_a_batch_that_cannot_be_shared() -> None:
    with pytest.raises(ValueError, match="2 processes cannot share 3 samples equally"):
        SampleOrder(12, 3, 0, 0, 2)


def test_a_whole_pass_sees_every_sample_in_a_new_order() -> None:
    order = SampleOrder(12, 4, 0)
    first, second = ([key for step in steps for key in order.keys(step)] for steps in (range(3), range(3, 6)))
    assert sorted(first) == [(0, i) for i in range(12)]
    assert sorted(second) == [(1, i) for i in range(12)]
    assert [i for _, i in first] != [i for _, i in second]


def load(data: torch.utils.data.Dataset, workers: int, notes: list[str]) -> torch.Tensor:
    batches = Batches(data, SampleOrder(len(data), 4, 0), 2, 12, workers=workers, notify=notes.append)  # type: ignore[arg-type]
    return torch.stack([batch["image"] for batch in batches])


def test_workers_that_share_an_epoch_never_see_it_change_too_early(toy: ModuleType) -> None:
    class Shared(toy.Squares):  # type: ignore[name-defined]
        def __init__(self) -> None:
            super().__init__()
            self.shared = torch.zeros((), dtype=torch.int64).share_memory_()

        def set_epoch(self, epoch: int) -> None:
            self.shared.fill_(epoch)

        def __getitem__(self, index: int) -> dict[str, torch.Tensor]:
            self.epoch = int(self.shared)
            return super().__getitem__(index)

    notes: list[str] = []
    assert torch.equal(load(Shared(), 2, notes), load(toy.Squares(), 0, notes))
    assert notes == []


class Deadly:
    """Kills the worker that prepares its tenth sample, as a lack of memory would."""

    def __init__(self, inner: torch.utils.data.Dataset) -> None:
        self.inner, self.parent, self.served = inner, os.getpid(), 0

    def set_epoch(self, epoch: int) -> None:
        self.inner.set_epoch(epoch)  # type: ignore[attr-defined]

    def __len__(self) -> int:
        return len(self.inner)  # type: ignore[arg-type]

    def __getitem__(self, index: int) -> dict[str, torch.Tensor]:
        self.served += 1
        if self.served == 10 and os.getpid() != self.parent:
            os.kill(os.getpid(), signal.SIGKILL)
        return self.inner[index]


@pytest.mark.skipif(not hasattr(os, "fork"), reason="the parent's process id must reach the worker by a fork")
def test_killed_worker_loses_nothing(toy: ModuleType) -> None:
    notes: list[str] = []
    handler = signal.getsignal(signal.SIGCHLD)
    assert torch.equal(load(Deadly(toy.Squares()), 1, notes), load(toy.Squares(), 0, notes))  # type: ignore[arg-type]
    assert len(notes) == 1
    assert "going on without" in notes[0]
    assert "memory" in notes[0]
    assert signal.getsignal(signal.SIGCHLD) == handler


def test_error_in_the_data_shows_itself(toy: ModuleType) -> None:
    class Broken(toy.Squares):  # type: ignore[name-defined]
        def __getitem__(self, index: int) -> dict[str, torch.Tensor]:
            if index == 3:
                raise OSError("plate7.tif: truncated")
            return super().__getitem__(index)

    notes: list[str] = []
    with pytest.raises(OSError, match=r"^plate7\.tif: truncated$"):
        load(Broken(), 2, notes)
    assert notes == ["loading data with 2 workers failed, going on without: OSError: OSError: plate7.tif: truncated"]
