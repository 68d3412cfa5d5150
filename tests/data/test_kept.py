"""What was decoded last is kept, and no more than is allowed."""

from __future__ import annotations

import pickle

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from abbe.data import kept as kept_module
from abbe.data.kept import Kept


@given(st.lists(st.tuples(st.integers(0, 6), st.integers(1, 60)), max_size=60))
@settings(deadline=None, max_examples=40)
def test_the_last_parts_are_there_and_never_more_than_the_limit(steps: list[tuple[int, int]]) -> None:
    kept, mirror = Kept(), dict[int, np.ndarray]()
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(kept_module, "KEPT_BYTES", 100)
        for key, size in steps:
            part = kept.get(key)
            if part is None:
                part = np.full(size, key, np.uint8)
                kept.put(key, part)
            assert (part == key).all()
            mirror = {other: old for other, old in mirror.items() if other != key} | {key: part}
            while sum(one.nbytes for one in mirror.values()) > 100:
                mirror.pop(next(iter(mirror)))
            assert [other for other in range(7) if other in kept._parts] == sorted(mirror)


def test_a_part_larger_than_the_limit_is_kept_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(kept_module, "KEPT_BYTES", 100)
    kept = Kept()
    kept.put("small", np.zeros(10, np.uint8))
    kept.put("large", np.zeros(1000, np.uint8))
    assert kept.get("small") is None
    assert kept.get("large") is not None


def test_it_travels_empty() -> None:
    kept = Kept()
    kept.put(1, np.zeros(10))
    there = pickle.loads(pickle.dumps(kept))
    assert there.get(1) is None
    there.put(1, np.zeros(3))
    assert there.get(1).shape == (3,)
