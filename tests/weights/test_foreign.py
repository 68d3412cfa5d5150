"""Properties of opening what others published."""

from __future__ import annotations

import os
from argparse import Namespace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import save_file

from abbe.errors import AbbeError
from abbe.weights.foreign import read_foreign

TENSORS = {"conv.weight": torch.arange(12.0).reshape(3, 4), "norm.bias": torch.zeros(2)}


def same(found: dict[str, torch.Tensor]) -> bool:
    return found.keys() == TENSORS.keys() and all(torch.equal(found[name], TENSORS[name]) for name in TENSORS)


@pytest.mark.parametrize(
    "wrap",
    [
        lambda tensors: tensors,
        lambda tensors: {"model": tensors, "epoch": 3, "optimizer": {"state": {}, "lr": 0.1}},
        lambda tensors: {"state_dict": {f"module.{name}": tensor for name, tensor in tensors.items()}},
        lambda tensors: {"model": {"conv.weight": torch.ones(1)}, "model_ema": tensors},
        lambda tensors: {"model": tensors, "ema": {}},
        lambda tensors: {"state_dict": tensors, "ema": {"decay": 0.99, "updates": torch.tensor(3)}},
        lambda tensors: {"model": {"conv.weight": torch.ones(1)}, "model_ema": {"decay": 0.9, "module": tensors}},
        lambda tensors: {"n_averaged": torch.tensor(5)} | {f"module.{name}": tensors[name] for name in tensors},
    ],
)
@pytest.mark.parametrize("zipped", [True, False])
def test_checkpoints_are_unwrapped(tmp_path: Path, wrap: Any, zipped: bool) -> None:
    torch.save(wrap(TENSORS), tmp_path / "a.pth", _use_new_zipfile_serialization=zipped)
    assert same(read_foreign(tmp_path / "a.pth"))


def test_safetensors_and_npz_are_read(tmp_path: Path) -> None:
    save_file(TENSORS, tmp_path / "a.safetensors")
    np.savez(tmp_path / "a.npz", **{name: tensor.numpy() for name, tensor in TENSORS.items()})
    assert same(read_foreign(tmp_path / "a.safetensors"))
    assert same(read_foreign(tmp_path / "a.npz"))


class Evil:
    def __reduce__(self) -> Any:
        return os.mkdir, ("evil",)


def test_a_pickle_with_code_is_not_run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    torch.save({"model": Evil()}, "a.pth")
    with pytest.raises(AbbeError, match=r"a\.pth: a pickle with (posix|nt)\.mkdir in it, which could run code"):
        read_foreign("a.pth")
    np.savez("a.npz", w=np.array([Evil()], object))
    with pytest.raises(AbbeError, match="holds Python objects, which could run code"):
        read_foreign("a.npz")
    assert not Path("evil").exists()


@pytest.mark.parametrize(
    ("beside", "name"), [(Namespace(lr=0.1), r"argparse\.Namespace"), (np.float64(3), r"numpy\.\S+\.scalar")]
)
def test_what_a_pickle_holds_beside_tensors_is_named(tmp_path: Path, beside: Any, name: str) -> None:
    torch.save({"model": TENSORS, "beside": beside}, tmp_path / "a.pth")
    with pytest.raises(AbbeError, match=f"a pickle with {name} in it, which could run code, and is not opened; save"):
        read_foreign(tmp_path / "a.pth")


def test_the_content_tells_what_a_file_is(tmp_path: Path) -> None:
    arrays = {name: tensor.numpy() for name, tensor in TENSORS.items()}
    with (tmp_path / "an_npz").open("wb") as file:
        np.savez(file, **arrays)  # type: ignore[arg-type]
    save_file(TENSORS, tmp_path / "safetensors.npz")
    assert same(read_foreign(tmp_path / "an_npz"))
    assert same(read_foreign(tmp_path / "safetensors.npz"))
    np.savez(tmp_path / "words.npz", names=np.array(["round", "oval"]))
    with pytest.raises(AbbeError, match=r"words\.npz: 'names' is an array of str\d+; expected numbers"):
        read_foreign(tmp_path / "words.npz")


@pytest.mark.parametrize("suffix", [".pth", ".safetensors", ".npz"])
@pytest.mark.parametrize("share", [0.0, 0.3, 0.97])
def test_a_cut_file_is_one_sentence(tmp_path: Path, suffix: str, share: float) -> None:
    path = tmp_path / f"a{suffix}"
    if suffix == ".pth":
        torch.save(TENSORS, path)
    elif suffix == ".npz":
        np.savez(path, **{name: tensor.numpy() for name, tensor in TENSORS.items()})
    else:
        save_file(TENSORS, path)
    path.write_bytes(path.read_bytes()[: int(share * path.stat().st_size)])
    with pytest.raises(AbbeError, match=r"a\.(pth|npz|safetensors): "):
        read_foreign(path)


@pytest.mark.parametrize("content", [[1, 2], {"epoch": 3}, {"model": {"model": {"model": {"model": 1}}}}])
def test_a_file_without_tensors_says_so(tmp_path: Path, content: Any) -> None:
    torch.save(content, tmp_path / "a.pth")
    with pytest.raises(AbbeError, match="holds no tensors by name"):
        read_foreign(tmp_path / "a.pth")


def test_what_is_no_file_of_weights_is_told(tmp_path: Path) -> None:
    (tmp_path / "a.txt").write_text("hello, world")
    with pytest.raises(AbbeError, match="neither safetensors nor"):
        read_foreign(tmp_path / "a.txt")
    with pytest.raises(AbbeError, match="cannot be read as weights"):
        read_foreign(tmp_path / "none.pth")
