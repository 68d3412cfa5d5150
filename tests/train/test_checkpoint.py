"""Checkpoints are whole or not there, and a damaged one does not end a run."""

from __future__ import annotations

import random
from pathlib import Path

import numpy as np
import pytest
import torch

from abbe.errors import AbbeError
from abbe.train.checkpoint import (
    load_checkpoint,
    load_weights,
    random_states,
    restore_random_states,
    save_checkpoint,
    seed_everything,
)


def test_previous_is_kept_and_used_when_the_last_is_cut(tmp_path: Path) -> None:
    path = tmp_path / "checkpoints" / "last.pt"
    save_checkpoint(path, {"step": 1})
    save_checkpoint(path, {"step": 2})
    assert load_checkpoint(path) == {"step": 2}
    path.write_bytes(path.read_bytes()[:-40])
    with pytest.warns(UserWarning, match=r"last\.pt is damaged"):
        assert load_checkpoint(path) == {"step": 1}
    path.unlink()
    assert load_checkpoint(path) == {"step": 1}


def test_no_readable_checkpoint_is_told(tmp_path: Path) -> None:
    (tmp_path / "last.pt").write_bytes(b"")
    with pytest.raises(AbbeError, match=r"no readable checkpoint \(last\.pt: .*last\.previous\.pt: "):
        load_checkpoint(tmp_path / "last.pt")


def test_full_disk_leaves_what_was_there(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "last.pt"
    save_checkpoint(path, {"step": 1})

    def full(state: object, file: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(torch, "save", full)
    with pytest.raises(AbbeError, match=r"cannot be written .*No space left"):
        save_checkpoint(path, {"step": 2})
    monkeypatch.undo()
    assert load_checkpoint(path) == {"step": 1}
    assert [file.name for file in tmp_path.iterdir()] == ["last.pt"]


def test_averaged_weights_win_over_those_of_the_last_step(tmp_path: Path) -> None:
    model = {"a": torch.zeros(2, 3).T, "counter": torch.tensor(3)}
    save_checkpoint(tmp_path / "last.pt", {"model": model, "ema": {"a": torch.ones(3, 2)}})
    weights = load_weights(tmp_path / "last.pt")
    assert torch.equal(weights["a"], torch.ones(3, 2))
    assert weights["counter"] == 3
    save_checkpoint(tmp_path / "plain.pt", {"model": model, "ema": None})
    assert load_weights(tmp_path / "plain.pt")["a"].is_contiguous()


def test_random_states_survive_a_file(tmp_path: Path) -> None:
    def draw() -> list[float]:
        legacy = np.random.standard_normal(3)  # noqa: NPY002
        return [*torch.rand(3).tolist(), *legacy, random.random(), random.gauss(0, 1)]

    seed_everything(4)
    draw()  # an odd number of normals leaves one waiting
    save_checkpoint(tmp_path / "state.pt", random_states())
    expected = draw()
    restore_random_states(load_checkpoint(tmp_path / "state.pt"))
    assert draw() == expected
