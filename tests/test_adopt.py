"""Files that others published become networks and models; what does not fit is told."""

from __future__ import annotations

import logging
import os
from collections.abc import Callable
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import save_file

import abbe
from abbe.adopt import fit_channels
from abbe.errors import AbbeError
from abbe.methods.attention import vit
from abbe.methods.backbones import convnext, resnet
from abbe.weights.records import find_model
from abbe.weights.tables import convnext as convnext_tables
from abbe.weights.tables import resnet as resnet_tables
from abbe.weights.tables import vit as vit_tables

TINY = resnet.VARIANTS["resnet_tiny"]
SMALL: dict[str, Any] = {"blocks": (1, 1, 1, 1), "widths": (2, 2, 2, 2), "num_classes": 3}
Draw = Callable[..., Any]
Tensors = dict[str, torch.Tensor]


@pytest.fixture(scope="module")
def network(randomised: Draw) -> Any:
    return randomised(resnet.build(TINY))


@pytest.fixture(scope="module")
def theirs(network: Any) -> Tensors:
    return resnet_tables.LAYOUTS[0].to_theirs(network.state_dict(), asdict(TINY))


@pytest.fixture
def file(theirs: Tensors, tmp_path: Path) -> Path:
    torch.save(theirs, tmp_path / "theirs.pth")
    return tmp_path / "theirs.pth"


def image(channels: int = 3) -> torch.Tensor:
    return torch.randn(2, channels, 32, 32, generator=torch.Generator().manual_seed(0))


@pytest.mark.parametrize("wrap", ["plain", "state_dict", "module", "without counters", "safetensors"])
def test_published_files_load(wrap: str, theirs: Tensors, network: Any, tmp_path: Path) -> None:
    path = tmp_path / "a.pth"
    if wrap == "safetensors":
        path = tmp_path / "a.safetensors"
        save_file(theirs, path)
    elif wrap == "state_dict":
        torch.save({"epoch": 3, "best": torch.tensor(0.5), "state_dict": theirs}, path)
    elif wrap == "module":
        torch.save({f"module.{name}": tensor for name, tensor in theirs.items()}, path)
    elif wrap == "without counters":
        torch.save({name: tensor for name, tensor in theirs.items() if "num_batches" not in name}, path)
    else:
        torch.save(theirs, path)
    assert torch.equal(abbe.create("resnet_tiny", weights=path).eval()(image()), network(image()))


def test_a_grey_image_gives_what_it_gave_as_colour(file: Path, network: Any) -> None:
    grey = image(1)
    found = abbe.create("resnet_tiny", weights=file, in_channels=1).eval()(grey)
    torch.testing.assert_close(found, network(grey.expand(-1, 3, -1, -1)), rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("channels", [2, 5, 6])
def test_filters_are_repeated_and_scaled_for_other_channels(channels: int, file: Path, network: Any) -> None:
    old = network.stem[0].weight
    new = abbe.create("resnet_tiny", weights=file, in_channels=channels).stem[0].weight
    expected = torch.stack([old[:, i % 3] * 3 / channels for i in range(channels)], 1)
    torch.testing.assert_close(new, expected)


def test_filters_fit_any_number_of_channels() -> None:
    filters = torch.randn(4, 3, 7, 7)
    assert fit_channels(filters, 3) is filters
    torch.testing.assert_close(fit_channels(filters, 6).sum(1), filters.sum(1))
    torch.testing.assert_close(fit_channels(filters[:, :1], 3).sum(1), filters[:, 0])


def test_another_number_of_classes_is_said(file: Path, network: Any, caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.WARNING):
        found = abbe.create("resnet_tiny", weights=file, num_classes=7).eval()
    assert "tells 3 classes apart, not 7; the last layer is random" in caplog.text
    assert found(image()).shape == (2, 7)
    assert torch.equal(found.pyramid(image())[-1], network.pyramid(image())[-1])


@pytest.mark.parametrize("classes", [0, 3])
def test_nothing_is_said_where_nothing_is_lost(classes: int, file: Path, caplog: pytest.LogCaptureFixture) -> None:
    found = abbe.create("resnet_tiny", weights=file, num_classes=classes).eval()
    assert found(image()).shape == (2, classes or found.widths[-1])
    assert caplog.text == ""


def test_missing_and_extra_tensors_are_named(theirs: Tensors, tmp_path: Path) -> None:
    path = tmp_path / "a.pth"
    torch.save({name: tensor for name, tensor in theirs.items() if name != "layer2.0.conv1.weight"}, path)
    with pytest.raises(AbbeError, match=r"a\.pth: does not fit ResNet; missing: layer2\.0\.conv1\.weight$"):
        abbe.create("resnet_tiny", weights=path)
    torch.save(theirs | {"layer9.0.conv1.weight": torch.ones(1)}, path)
    with pytest.raises(AbbeError, match=r"a\.pth: does not fit ResNet; unexpected: layer9\.0\.conv1\.weight$"):
        abbe.create("resnet_tiny", weights=path)
    torch.save(theirs | {"neck.weight": torch.ones(1)}, path)
    with pytest.raises(AbbeError, match=r"a\.pth: 1 of \d+ tensors are of no layout .* unexpected: neck\.weight"):
        abbe.create("resnet_tiny", weights=path)


def test_another_size_is_called_by_its_name(theirs: Tensors, tmp_path: Path) -> None:
    torch.save(theirs, tmp_path / "a.pth")
    with pytest.raises(AbbeError, match=r"a\.pth: these are weights of 'resnet_tiny', not of 'resnet18'"):
        abbe.create("resnet18", weights=tmp_path / "a.pth")


def test_other_channels_or_classes_that_nobody_asked_for_are_told(tmp_path: Path) -> None:
    config = replace(TINY, in_channels=1, num_classes=9)
    torch.save(resnet_tables.LAYOUTS[0].to_theirs(resnet.build(config).state_dict(), {}), tmp_path / "a.pth")
    with pytest.raises(AbbeError, match="they have in_channels=1 and num_classes=9: give both"):
        abbe.create("resnet_tiny", weights=tmp_path / "a.pth")
    assert abbe.create("resnet_tiny", weights=tmp_path / "a.pth", in_channels=1, num_classes=9)


def test_a_file_without_a_head_says_what_to_give(tmp_path: Path) -> None:
    for pre_logits, told in ((0, "num_classes=0: give it"), (6, "num_classes=0 and pre_logits=6: give both")):
        config = replace(vit.VARIANTS["vit_patch4_tiny"], num_classes=0, pre_logits=pre_logits)
        torch.save(vit_tables.TIMM.to_theirs(vit.build(config).state_dict(), asdict(config)), tmp_path / "a.pth")
        with pytest.raises(AbbeError, match=f"weights of 'vit_patch4_tiny', but they have {told}"):
            abbe.create("vit_patch4_tiny", weights=tmp_path / "a.pth")
        assert abbe.create("vit_patch4_tiny", weights=tmp_path / "a.pth", num_classes=0, pre_logits=pre_logits)


def test_the_layout_of_the_authors_chooses_their_gelu(tmp_path: Path) -> None:
    config = vit.VARIANTS["vit_patch4_tiny"]
    theirs = vit_tables.GOOGLE.to_theirs(vit.build(config).state_dict(), asdict(config))
    np.savez(tmp_path / "mine.npz", **{name: tensor.numpy() for name, tensor in theirs.items()})
    assert abbe.create("vit_patch4_tiny", weights=tmp_path / "mine.npz").config.gelu == "tanh"
    assert abbe.create("vit_patch4_tiny", weights=tmp_path / "mine.npz", gelu="exact").config.gelu == "exact"


@pytest.mark.parametrize(
    ("field", "number", "least"), [("in_channels", 0, 1), ("in_channels", -1, 1), ("num_classes", -2, 0)]
)
def test_numbers_that_no_network_has_are_refused(field: str, number: int, least: int, file: Path) -> None:
    for weights in (None, file):
        with pytest.raises(AbbeError, match=f"{field} is {number}; expected {least} at least"):
            abbe.create("resnet_tiny", weights=weights, **{field: number})


def test_a_model_of_another_network_says_which(tmp_path: Path) -> None:
    with pytest.raises(AbbeError, match="a model of 'unet_residual', not of 'resnet18'; give that name, or open it"):
        abbe.create("resnet18", weights=find_model("nuclei"))
    stored = abbe.convert(_saved(tmp_path), tmp_path / "a.safetensors", "resnet50", **SMALL)
    with pytest.raises(AbbeError, match="a model of 'resnet50', not of 'resnet50_v1'"):
        abbe.create("resnet50_v1", weights=stored)  # which differ in a stride alone, but these are narrow


def _saved(folder: Path) -> Path:
    network = resnet.build(replace(resnet.VARIANTS["resnet50"], **SMALL))
    torch.save(resnet_tables.LAYOUTS[0].to_theirs(network.state_dict(), {}), folder / "small.pth")
    return folder / "small.pth"


def test_another_network_is_told(tmp_path: Path) -> None:
    config = convnext.VARIANTS["convnext_test_tiny"]
    torch.save(convnext_tables.LAYOUTS[0].to_theirs(convnext.build(config).state_dict(), {}), tmp_path / "a.pth")
    with pytest.raises(AbbeError, match="another network than 'resnet_tiny', for its names are those of convnext_"):
        abbe.create("resnet_tiny", weights=tmp_path / "a.pth")
    with pytest.raises(AbbeError, match="not a model of Abbe, and no published weights of 'unet_2015_tiny' are known"):
        abbe.create("unet_2015_tiny", weights=tmp_path / "a.pth")


class Evil:
    def __reduce__(self) -> Any:
        return os.mkdir, ("evil",)


def test_damaged_and_dangerous_files_are_refused(file: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    file.write_bytes(file.read_bytes()[:-2000])
    with pytest.raises(AbbeError, match=r"theirs\.pth: not a whole PyTorch file"):
        abbe.create("resnet_tiny", weights=file)
    torch.save({"state_dict": Evil()}, "evil.pth")
    with pytest.raises(AbbeError, match=r"a pickle with (posix|nt)\.mkdir in it, which could run code"):
        abbe.create("resnet_tiny", weights="evil.pth")
    assert not Path("evil").exists()


def test_a_published_name_is_held_to_its_hash(theirs: Tensors, tmp_path: Path) -> None:
    torch.save(theirs, tmp_path / "resnet18-f37072fd.pth")
    with pytest.raises(AbbeError, match="not the published file of this name"):
        abbe.create("resnet18", weights=tmp_path / "resnet18-f37072fd.pth")


def test_a_licence_for_no_commercial_use_has_to_be_accepted(tmp_path: Path) -> None:
    path = tmp_path / "vit_b_16_swag-9ac1b537.pth"
    path.write_bytes(b"something")
    with pytest.raises(AbbeError, match=r"CC-BY-NC-4\.0, forbids commercial use; .* `abbe convert --accept-license`"):
        abbe.create("vit_base_patch16_384", weights=path)
    with pytest.raises(AbbeError, match="not the published file of this name"):
        abbe.create("vit_base_patch16_384", weights=path, accept_license=True)


def test_a_published_file_that_is_not_there_is_told(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("ABBE_WEIGHTS", str(tmp_path))
    with pytest.raises(AbbeError, match=r"download https://download\.pytorch\.org/models/resnet18-f37072fd\.pth"):
        abbe.create("resnet18", weights="resnet18-f37072fd.pth")
