"""A stage in a thread of its own changes nothing but when things happen, and leaves no thread behind."""

from __future__ import annotations

import threading
import time
from collections.abc import Iterator

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from abbe.tiling.prefetch import prefetch


@pytest.fixture(autouse=True)
def no_thread_stays() -> Iterator[None]:
    before = set(threading.enumerate())
    yield
    assert set(threading.enumerate()) <= before


@given(st.lists(st.one_of(st.integers(), st.none(), st.booleans()), max_size=30), st.integers(1, 4))
@settings(deadline=None, max_examples=25)
def test_items_come_in_order(items: list[object], depth: int) -> None:
    assert list(prefetch(iter(items), depth)) == items


@pytest.mark.parametrize("error", [ValueError("bad block"), KeyboardInterrupt()])
def test_an_error_arrives_after_the_items_before_it(error: BaseException) -> None:
    def failing() -> Iterator[int]:
        yield 1
        yield 2
        raise error

    items = prefetch(failing())
    assert [next(items), next(items)] == [1, 2]
    with pytest.raises(type(error)) as told:
        next(items)
    assert told.value is error


def test_the_thread_is_another_and_at_most_depth_ahead() -> None:
    made, threads = [], set()

    def items() -> Iterator[int]:
        for i in range(20):
            made.append(i)
            threads.add(threading.get_ident())
            yield i

    for i in prefetch(items(), depth=2):
        time.sleep(0.002)
        assert len(made) <= i + 1 + 2 + 1  # the one in hand, those that wait, the one being made
    assert threading.get_ident() not in threads


def test_closing_stops_an_endless_source_and_closes_it() -> None:
    closed = threading.Event()

    def endless() -> Iterator[int]:
        try:
            while True:
                yield 1
        finally:
            closed.set()

    items = prefetch(endless())
    assert next(items) == 1
    items.close()
    assert closed.is_set()


def test_an_error_of_the_consumer_stops_a_chain_of_stages() -> None:
    closed = threading.Event()

    def endless() -> Iterator[int]:
        try:
            while True:
                yield 1
        finally:
            closed.set()

    def consume() -> None:
        for _ in prefetch(prefetch(endless())):
            raise RuntimeError("the consumer fails")

    with pytest.raises(RuntimeError, match="the consumer fails") as told:
        consume()
    del told
    assert closed.wait(5)


def test_nothing_begins_before_the_first_item_is_asked_for() -> None:
    begun = []

    def items() -> Iterator[int]:
        begun.append(True)
        yield 1

    waiting = prefetch(items())
    assert not begun
    assert list(waiting) == [1]
