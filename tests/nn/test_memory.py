"""The allocator is tuned where there is glibc, and left alone elsewhere."""

from __future__ import annotations

import platform

import pytest

from abbe.nn.memory import tune_allocator


@pytest.mark.skipif(platform.libc_ver()[0] != "glibc", reason="another C library")
def test_glibc_takes_the_setting_any_number_of_times() -> None:
    assert tune_allocator()
    assert tune_allocator()


def test_other_c_libraries_are_left_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(platform, "libc_ver", lambda: ("", ""))
    assert not tune_allocator()
