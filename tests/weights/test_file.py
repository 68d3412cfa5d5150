"""A model file comes back as it was written; what is no model says so in one sentence and runs no code."""

from __future__ import annotations

import hashlib
import json
import os
import pickle
import zipfile
from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from safetensors.torch import load_file, save_file

from abbe.errors import AbbeError
from abbe.weights.file import FORMAT, Description, file_hash, read_description, read_model, save_model

TENSORS = {
    "network.weight": torch.randn(3, 2, generator=torch.Generator().manual_seed(0)),
    "network.half": torch.arange(6, dtype=torch.bfloat16).reshape(2, 3).T,  # not contiguous
    "network.number": torch.tensor(7),
    "network.nothing": torch.zeros(0, 4),
}
DESCRIPTION = Description(
    name="kerne-µ",
    network="unet_residual_tiny",
    config={"widths": [8, 8]},
    options={"prominence": 0.2},
    diameter=(8.0, 80.0),
    pixel_size=(0.5, 0.25),
    data=["one (CC0)"],
    metrics={"validation": {"ap50": 0.9}},
)


@pytest.fixture
def model(tmp_path: Path) -> Path:
    return save_model(tmp_path / "model.safetensors", TENSORS, DESCRIPTION)


def with_header(path: Path, **changes: Any) -> Path:
    """Write a model whose header says something else; None takes an entry out."""
    description = {"format": FORMAT, "name": "a", "network": "unet_residual_tiny", **changes}
    header = {key: value for key, value in description.items() if value is not None}
    save_file(TENSORS | {"network.half": torch.zeros(1)}, path, {"abbe": json.dumps(header)})
    return path


def test_a_model_comes_back_bit_by_bit(model: Path) -> None:
    tensors, description = read_model(model)
    assert description == DESCRIPTION
    assert tensors.keys() == TENSORS.keys()
    for name, tensor in TENSORS.items():
        assert tensors[name].dtype == tensor.dtype
        assert torch.equal(tensors[name], tensor)


@given(st.text(max_size=300), st.integers(0, 40))
@settings(deadline=None, max_examples=40)
def test_any_length_of_header_is_read(tmp_path_factory: pytest.TempPathFactory, name: str, padding: int) -> None:
    """The first bytes are that length, and may look like those of other files."""
    path = tmp_path_factory.mktemp("models") / "a.safetensors"
    description = Description(name, "unet_residual_tiny", licence="x" * 8 * padding)
    assert read_description(save_model(path, {"a": torch.zeros(1)}, description)) == description


def test_saving_replaces_whole_files_or_nothing(model: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    before = model.read_bytes()

    def full(*_: Any) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "replace", full)
    with pytest.raises(AbbeError, match=r"model\.safetensors: cannot be written, no space left on the disk"):
        save_model(model, {"other": torch.zeros(5)}, DESCRIPTION)
    assert model.read_bytes() == before
    assert [path.name for path in model.parent.iterdir()] == [model.name]


def test_others_can_read_the_file(model: Path) -> None:
    assert load_file(model).keys() == TENSORS.keys()
    assert file_hash(model) == hashlib.sha256(model.read_bytes()).hexdigest()


@pytest.mark.parametrize("share", [0.02, 0.3, 0.9, 0.999])
def test_a_cut_file(model: Path, share: float) -> None:
    content = model.read_bytes()
    model.write_bytes(content[: int(len(content) * share)])
    with pytest.raises(AbbeError, match=r"model\.safetensors: not a whole safetensors file"):
        read_model(model)


def test_files_that_are_something_else(tmp_path: Path) -> None:
    class Trap:
        def __reduce__(self) -> tuple[Any, ...]:
            return Path.touch, (tmp_path / "code ran",)

    empty, pickled, zipped, torch_file, text = (tmp_path / f"{i}.safetensors" for i in range(5))
    empty.touch()
    pickled.write_bytes(pickle.dumps(Trap()))
    torch.save({"a": torch.zeros(2)}, torch_file)
    with zipfile.ZipFile(zipped, "w") as archive:
        archive.writestr("data.pkl", pickle.dumps(Trap()))
    text.write_text("version https://git-lfs.github.com/spec/v1\noid sha256:0123\nsize 7654321\n")
    expected = {
        empty: "an empty file, not a model",
        pickled: "a pickle, which can run code",
        zipped: "a pickle, which can run code",
        torch_file: "a pickle, which can run code",
        text: "not a whole safetensors file",
        tmp_path: "a folder without model.safetensors",
        tmp_path / "missing": "cannot be read as a model",
    }
    for path, words in expected.items():
        with pytest.raises(AbbeError, match=words) as told:
            read_model(path)
        assert str(told.value).startswith(f"{path}: ")
    assert not (tmp_path / "code ran").exists()


@pytest.mark.parametrize("protocol", range(2, pickle.HIGHEST_PROTOCOL + 1))
def test_pickles_of_every_binary_protocol(tmp_path: Path, protocol: int) -> None:
    path = tmp_path / "a.pt"
    path.write_bytes(pickle.dumps({"weight": [0.0] * 50}, protocol))
    with pytest.raises(AbbeError, match="a pickle"):
        read_model(path)


def test_tensors_of_others_name_the_way_to_use_them(tmp_path: Path) -> None:
    save_file({"a": torch.zeros(1)}, tmp_path / "theirs.safetensors")
    with pytest.raises(AbbeError, match=r"without Abbe's description.*abbe\.create\(name, weights=FILE\)"):
        read_model(tmp_path / "theirs.safetensors")


def test_a_newer_format_asks_for_a_newer_abbe(tmp_path: Path) -> None:
    path = with_header(tmp_path / "a.safetensors", format=FORMAT + 1, abbe="9.1", tomorrow=[1])
    with pytest.raises(AbbeError, match=f"written by Abbe 9.1 in model format {FORMAT + 1}.*pip install --upgrade"):
        read_model(path)


def test_unknown_and_missing_entries_are_named(tmp_path: Path) -> None:
    with pytest.raises(AbbeError, match="unknown entries: colour, weather"):
        read_model(with_header(tmp_path / "a.safetensors", weather="fine", colour="red"))
    with pytest.raises(AbbeError, match="its description lacks network"):
        read_model(with_header(tmp_path / "b.safetensors", network=None))


@pytest.mark.parametrize("header", ["not JSON", "[1, 2]", "null"])
def test_a_damaged_description(tmp_path: Path, header: str) -> None:
    save_file({"a": torch.zeros(1)}, tmp_path / "a.safetensors", {"abbe": header})
    with pytest.raises(AbbeError, match="its description is damaged"):
        read_model(tmp_path / "a.safetensors")
