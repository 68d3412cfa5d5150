"""Packages for bioimage.io, held against the tools of bioimage.io, without a network."""

from __future__ import annotations

import socket
import zipfile
from collections.abc import Callable
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import yaml
from PIL import Image

from abbe.api import export
from abbe.errors import AbbeError
from abbe.methods.backbones import unet, unet_3d
from abbe.methods.segmentation.instances import InstancesConfig, InstanceSegmentation
from abbe.model import Model
from abbe.weights.file import Description, save_model

pytest.importorskip("onnxscript")
pytest.importorskip("onnxruntime")
spec = pytest.importorskip("bioimageio.spec")


@pytest.fixture(autouse=True)
def no_network(monkeypatch: pytest.MonkeyPatch) -> None:
    """Refuse every connection: a package whose checks need one fails."""

    def refuse(*_: Any) -> None:
        raise AssertionError("the network was used")

    monkeypatch.setattr(socket.socket, "connect", refuse)
    monkeypatch.setattr(socket, "getaddrinfo", refuse)


@pytest.fixture
def stacks(randomised: Callable[..., Any], tmp_path: Path) -> Path:
    """A model file: solids, at voxels of known size."""
    config = unet_3d.VARIANTS["unet_3d_tiny"]
    method = InstanceSegmentation(randomised(unet_3d.build(config)))
    description = Description(
        name="solids",
        network="unet_3d_tiny",
        config=asdict(config),
        objective="instances",
        options=asdict(InstancesConfig()),
        normalization={"kind": "zscore", "joint": True},
        pixel_size=(1.0, 0.5, 0.5),
        licence="my own",
    )
    return save_model(tmp_path / "solids.safetensors", method.state_dict(), description)


@pytest.fixture
def unpadded(randomised: Callable[..., Any], tmp_path: Path) -> Path:
    """A model file whose output is smaller than its input."""
    config = replace(unet.VARIANTS["unet_2015_tiny"], in_channels=1)
    method = unet.UNetSegmentation(randomised(unet.build(config)))
    description = Description(
        name="valid",
        network="unet_2015_tiny",
        config=asdict(config),
        objective="unet",
        options=asdict(unet.UNetOptions()),
        normalization={"kind": "minmax", "joint": True},
        licence="BSD-3-Clause; mine",
    )
    return save_model(tmp_path / "valid.safetensors", method.state_dict(), description)


def described(path: Path) -> dict[str, Any]:
    with zipfile.ZipFile(path) as package:
        name = next(name for name in package.namelist() if name.endswith(("rdf.yaml", "bioimageio.yaml")))
        return yaml.safe_load(package.read(name))


def axes(tensor: dict[str, Any]) -> dict[str, dict[str, Any]]:
    return {axis.get("id", axis["type"]): axis for axis in tensor["axes"]}


def passes(path: Path) -> None:
    """Hold a package against the format, and its weights against its test tensors."""
    model = spec.load_description(path, perform_io_checks=True)
    assert not isinstance(model, spec.InvalidDescr), model.get_reason()
    core = pytest.importorskip("bioimageio.core")
    tested = core.test_model(model, weight_format="onnx", devices=["cpu"])
    assert tested.status == "passed", [detail.errors for detail in tested.details]


def test_a_package_of_a_segmenter_passes_and_says_halo_and_steps(
    bright: Model, bright_file: Path, tmp_path: Path
) -> None:
    written = export(bright_file, "bioimageio", tmp_path / "bright.zip")
    passes(written.path)
    content = described(written.path)
    (entrance,), (foreground, depth) = content["inputs"], content["outputs"]
    assert (foreground["id"], depth["id"]) == ("foreground", "depth")
    y = axes(entrance)["y"]
    halo = axes(foreground)["y"]["halo"]
    assert y["size"]["step"] == bright.method.geometry.multiple[0]
    assert y["size"]["min"] > 2 * halo > 0
    scaling = next(step for step in entrance["preprocessing"] if step["id"] == "scale_range")
    assert scaling["kwargs"]["max_percentile"] == 99.8
    assert content["cite"][0]["doi"] == "10.48550/arXiv.1505.04597"
    assert content["config"]["abbe"]["licence"] == "CC0"  # which is no SPDX identifier
    with zipfile.ZipFile(written.path) as package, package.open("cover.png") as file:
        picture = Image.open(file)
        assert picture.size == (512, 256)
        assert np.asarray(picture).std() > 10


def test_a_package_of_solids_passes(stacks: Path, tmp_path: Path) -> None:
    written = export(stacks, "bioimageio", tmp_path / "solids.zip")
    passes(written.path)
    content = described(written.path)
    assert list(axes(content["inputs"][0])) == ["batch", "channel", "z", "y", "x"]
    assert axes(content["inputs"][0])["y"]["scale"] == 0.5
    assert axes(content["inputs"][0])["z"]["unit"] == "micrometer"
    assert "license" not in content


def test_what_an_unpadded_network_loses_is_an_offset_and_no_halo(unpadded: Path, tmp_path: Path) -> None:
    written = export(unpadded, "bioimageio", tmp_path / "valid.zip")
    passes(written.path)
    content = described(written.path)
    y = axes(content["outputs"][0])["y"]
    assert "halo" not in y
    assert y["size"]["offset"] < 0
    assert content["license"] == "BSD-3-Clause"


def test_what_is_no_model_of_images_is_refused(tmp_path: Path) -> None:
    with pytest.raises(AbbeError, match="resnet_tiny: a network without trained weights is no model for bioimage.io"):
        export("resnet_tiny", "bioimageio", tmp_path / "a.zip")
    assert list(tmp_path.iterdir()) == []
