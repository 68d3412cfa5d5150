"""Published weights stored as models: what is known of them goes along, and their classes have names."""

from __future__ import annotations

import sys
from collections.abc import Callable
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

import abbe
from abbe import conversion
from abbe.errors import AbbeError
from abbe.methods.backbones import convnext, resnet
from abbe.methods.catalog import published
from abbe.weights.file import read_description, read_model
from abbe.weights.published import Published
from abbe.weights.tables import convnext as convnext_tables
from abbe.weights.tables import resnet as resnet_tables

TINY = resnet.VARIANTS["resnet_tiny"]
PLAIN: dict[str, Any] = {"device": "cpu", "precision": "exact"}
Draw = Callable[..., Any]


@pytest.fixture(scope="module")
def network(randomised: Draw) -> Any:
    return randomised(resnet.build(TINY))


@pytest.fixture
def file(network: Any, tmp_path: Path) -> Path:
    torch.save(resnet_tables.LAYOUTS[0].to_theirs(network.state_dict(), asdict(TINY)), tmp_path / "theirs.pth")
    return tmp_path / "theirs.pth"


@pytest.fixture
def known(file: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[..., None]:
    """Let a record tell of the file."""

    def tell(**facts: Any) -> None:
        record = Published("resnet_tiny", "https://example.org/theirs.pth", "MIT", size=32, **facts)
        monkeypatch.setattr(conversion, "published", lambda: (record,))
        monkeypatch.setattr("abbe.adopt.published", lambda: (record,))

    return tell


def image(channels: int = 3) -> torch.Tensor:
    return torch.randn(2, channels, 32, 32, generator=torch.Generator().manual_seed(0))


def test_converted_weights_are_a_model_of_their_own(file: Path, network: Any, tmp_path: Path) -> None:
    stored = abbe.convert(file, tmp_path / "mine.safetensors", "resnet_tiny")
    _, description = read_model(stored)
    assert (description.name, description.network, description.objective) == ("mine", "resnet_tiny", "classification")
    assert torch.equal(abbe.create("resnet_tiny", weights=stored).eval()(image()), network(image()))
    grey = abbe.convert(file, tmp_path / "grey.safetensors", "resnet_tiny", in_channels=1)
    assert abbe.create("resnet_tiny", weights=grey).stem[0].weight.shape[1] == 1  # its file says so


def test_what_is_known_of_a_file_goes_into_the_model(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    wide = {"num_classes": 21841, "depths": (1, 1, 1, 1), "widths": (2, 2, 2, 2)}
    config = convnext.ConvNeXtConfig(**wide)
    path = tmp_path / "convnext_tiny_22k_224.pth"
    torch.save({"model": convnext_tables.LAYOUTS[0].to_theirs(convnext.build(config).state_dict(), {})}, path)
    small = {name: wide[name] for name in ("depths", "widths")}
    _, description = read_model(abbe.convert(path, tmp_path / "a.safetensors", **small))
    assert description.network == "convnext_tiny"
    assert description.config["num_classes"] == 21841
    assert description.licence == "MIT"
    assert description.data == ["ImageNet-22k, as https://dl.fbaipublicfiles.com/convnext/convnext_tiny_22k_224.pth"]
    assert description.colours == {"mean": [0.485, 0.456, 0.406], "std": [0.229, 0.224, 0.225], "size": 224}
    assert description.normalization == {"kind": "range"}
    assert description.options == {"size": 224}


def test_convert_tells_what_it_needs(file: Path, tmp_path: Path) -> None:
    with pytest.raises(AbbeError, match=r"theirs\.pth: not the name of a published file; give its network"):
        abbe.convert(file, tmp_path / "a.safetensors")
    with pytest.raises(AbbeError, match=r"nowhere\.pth: no such file; `abbe models` lists the published ones"):
        abbe.convert("nowhere.pth", tmp_path / "a.safetensors")
    with pytest.raises(AbbeError, match="nuclei: the name of a bundled model, not a file of weights"):
        abbe.convert("nuclei", tmp_path / "a.safetensors")
    with pytest.raises(AbbeError, match="stored as .safetensors"):
        abbe.convert(file, tmp_path / "a.pth", "resnet_tiny")


def test_names_of_classes_come_from_a_file(file: Path, tmp_path: Path) -> None:
    (tmp_path / "names.txt").write_text("round\noval\nround\n", encoding="utf-8")
    stored = abbe.convert(file, tmp_path / "a.safetensors", "resnet_tiny", classes=tmp_path / "names.txt")
    assert read_description(stored).options["classes"] == ["round (0)", "oval", "round (2)"]
    same = abbe.convert(file, tmp_path / "b.safetensors", "resnet_tiny", classes=["round", "oval", "long"])
    assert read_description(same).options["classes"] == ["round", "oval", "long"]
    (tmp_path / "names.txt").write_text("round\noval\n", encoding="utf-8")
    with pytest.raises(AbbeError, match=r"names\.txt: 2 names, but 'resnet_tiny' with these weights tells 3 classes"):
        abbe.convert(file, tmp_path / "c.safetensors", "resnet_tiny", classes=tmp_path / "names.txt")
    assert not (tmp_path / "c.safetensors").exists()


def test_names_that_are_known_need_no_file(file: Path, known: Callable[..., None], tmp_path: Path) -> None:
    known(classes=("cat", "dog", "frog"))
    stored = abbe.convert(file, tmp_path / "a.safetensors")
    assert read_description(stored).options == {"size": 32, "classes": ["cat", "dog", "frog"]}
    fresh = abbe.convert(file, tmp_path / "b.safetensors", num_classes=5)
    assert "classes" not in read_description(fresh).options


def test_the_classes_of_imagenet_are_those_of_torchvision(
    file: Path, known: Callable[..., None], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    names = conversion.imagenet_names()
    assert len(set(names)) == 1000
    assert (names[0], names[999]) == ("tench", "toilet tissue")  # the order of the synsets' numbers, as everybody's
    known(data="ImageNet-21k, ImageNet-1k")
    monkeypatch.setattr(conversion, "IMAGENET_CLASSES", 3)
    monkeypatch.setattr(conversion, "imagenet_names", lambda: names[:3])
    stored = abbe.convert(file, tmp_path / "a.safetensors")
    assert read_description(stored).options["classes"] == names[:3]
    monkeypatch.undo()
    monkeypatch.setitem(sys.modules, "torchvision.models", None)
    assert conversion.imagenet_names() == []


def test_every_name_of_a_record_belongs_to_an_output() -> None:
    of_cifar = [record for record in published() if record.classes]
    assert of_cifar
    assert {len(record.classes) for record in of_cifar} == {10}
    assert {record.data for record in of_cifar} == {"CIFAR-10"}


def test_classes_without_names_have_numbers(
    file: Path, known: Callable[..., None], network: Any, tmp_path: Path
) -> None:
    known(data="ImageNet-22k", mean=(0.5, 0.4, 0.3), std=(0.2, 0.3, 0.4))
    stored = abbe.convert(file, tmp_path / "a.safetensors")
    picture = np.random.default_rng(0).integers(0, 256, (32, 32, 3), np.uint8)
    table = abbe.classify(picture, stored, **PLAIN)
    assert list(table) == ["class", "probability", "p_class 0", "p_class 1", "p_class 2"]
    seen = ((picture / 255 - (0.5, 0.4, 0.3)) / (0.2, 0.3, 0.4)).transpose(2, 0, 1)
    with torch.inference_mode():
        expected = network(torch.from_numpy(seen[None].astype(np.float32))).softmax(1)[0]
    assert table.filter(like="p_").to_numpy()[0] == pytest.approx(expected.numpy(), abs=1e-5)
    assert table["class"].item() == f"class {int(expected.argmax())}"


def test_what_knows_no_classes_is_not_asked_for_them(file: Path, tmp_path: Path) -> None:
    picture = np.zeros((32, 32, 3), np.uint8)
    fresh = abbe.convert(file, tmp_path / "fresh.safetensors", "resnet_tiny", num_classes=7)
    with pytest.raises(AbbeError, match="'fresh' has a last layer that was never trained, so it cannot tell 7 classes"):
        abbe.classify(picture, fresh, size=32)
    bare = abbe.convert(file, tmp_path / "bare.safetensors", "resnet_tiny", num_classes=0)
    with pytest.raises(AbbeError, match="'bare' gives features and tells no classes; use it with `abbe embed`"):
        abbe.classify(picture, bare, size=32)
    zero = resnet.build(TINY)
    torch.nn.init.zeros_(zero.head.weight), torch.nn.init.zeros_(zero.head.bias)
    torch.save(resnet_tables.LAYOUTS[0].to_theirs(zero.state_dict(), asdict(TINY)), file)
    assert read_description(abbe.convert(file, tmp_path / "zero.safetensors", "resnet_tiny")).untrained


def test_a_size_that_nobody_told_can_be_given(file: Path, tmp_path: Path) -> None:
    stored = abbe.convert(file, tmp_path / "a.safetensors", "resnet_tiny")
    picture = np.random.default_rng(0).integers(0, 256, (40, 48, 3), np.uint8)
    with pytest.raises(AbbeError, match="does not say how large its pictures are; .*--size"):
        abbe.classify(picture, stored)
    small, large = (abbe.classify(picture, stored, size=size, **PLAIN) for size in (32, 64))
    with pytest.raises(AbbeError, match="takes no squares of 2 px .*below the stem.* choose others with --size"):
        abbe.classify(picture, stored, size=2, **PLAIN)
    assert not np.allclose(small.filter(like="p_"), large.filter(like="p_"))


def test_a_model_that_is_converted_again_keeps_what_it_says(
    file: Path, known: Callable[..., None], tmp_path: Path
) -> None:
    known(data="ImageNet-22k", mean=(0.5, 0.4, 0.3), top1=70.0)
    first = read_description(abbe.convert(file, tmp_path / "a.safetensors"))
    again = abbe.convert(tmp_path / "a.safetensors", tmp_path / "b.safetensors", classes=["x", "y", "z"])
    expected = replace(first, name="b", options=first.options | {"classes": ["x", "y", "z"]})
    assert read_description(again) == expected
    grey = read_description(abbe.convert(again, tmp_path / "c.safetensors", in_channels=1, num_classes=2))
    assert grey.colours["mean"] == pytest.approx([0.4])
    assert (grey.untrained, grey.metrics, "classes" in grey.options) == (True, {}, False)
