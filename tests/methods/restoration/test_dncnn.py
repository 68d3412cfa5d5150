"""DnCNN against a definition of its own, in every layout it is published in."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import nn

import abbe
from abbe.methods.restoration.dncnn import VARIANTS, DnCNNConfig, build
from abbe.nn.fold import fold_batch_norm
from abbe.nn.receptive_field import receptive_halo
from abbe.weights.published import weights_folder
from abbe.weights.rename import recognise
from abbe.weights.tables.dncnn import LAYOUTS, PUBLISHED

Tensors = dict[str, torch.Tensor]


def kair(tensors: Tensors, x: torch.Tensor) -> torch.Tensor:
    """The network without norms, from tensors named as KAIR's: what is taken away is the noise."""
    y, last = x, max(int(key.split(".")[1]) for key in tensors)
    for i in range(0, last + 1, 2):
        y = F.conv2d(y, tensors[f"model.{i}.weight"], tensors[f"model.{i}.bias"], padding=1)
        y = y if i == last else y.relu()
    return x - y


def deep_inverse(tensors: Tensors, x: torch.Tensor) -> torch.Tensor:
    """The same by the names of DeepInverse, which adds."""
    y = F.conv2d(x, tensors["in_conv.weight"], tensors["in_conv.bias"], padding=1).relu()
    for i in range(18):
        y = F.conv2d(y, tensors[f"conv_list.{i}.weight"], tensors[f"conv_list.{i}.bias"], padding=1).relu()
    return F.conv2d(y, tensors["out_conv.weight"], tensors["out_conv.bias"], padding=1) + x


def trained(config: DnCNNConfig, seed: int = 0) -> nn.Module:
    """A network whose norms and biases are not those of the beginning."""
    torch.manual_seed(seed)
    network = build(config)
    for name, tensor in network.state_dict().items():
        if tensor.is_floating_point() and tensor.ndim == 1:
            tensor.copy_(0.1 * torch.randn_like(tensor) + (0.5 if name.endswith(("weight", "var")) else 0)).abs_()
    return network.eval()


@pytest.mark.parametrize("name", ["dncnn_s", "dncnn_color"])
def test_equals_kair_with_gradient(name: str) -> None:
    network = trained(replace(VARIANTS[name], batch_norm=False, width=16))
    theirs = LAYOUTS[0].to_theirs(network.state_dict(), {})
    x = torch.rand(2, VARIANTS[name].in_channels, 21, 34, requires_grad=True)
    y = torch.rand_like(x, requires_grad=True)
    y.data.copy_(x.data)
    ours, other = network(x), kair(theirs, y)
    torch.testing.assert_close(ours, other, rtol=1e-4, atol=1e-5)
    weight = torch.rand_like(ours)
    (ours * weight).sum().backward()
    (other * weight).sum().backward()
    torch.testing.assert_close(x.grad, y.grad, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("depth", [17, 20])
def test_equals_spandrel_that_loads_the_same_file(depth: int) -> None:
    spandrel = pytest.importorskip("spandrel")
    network = trained(replace(VARIANTS["dncnn_s"], depth=depth, batch_norm=False))
    theirs = spandrel.ModelLoader().load_from_state_dict(LAYOUTS[0].to_theirs(network.state_dict(), {}))
    assert theirs.architecture.id == "DnCNN"
    x = torch.rand(1, 1, 40, 29)
    with torch.inference_mode():
        torch.testing.assert_close(network(x), theirs.model.eval()(x), rtol=1e-4, atol=1e-5)


def test_equals_deep_inverse() -> None:
    network = trained(replace(VARIANTS["dncnn_b"], batch_norm=False, width=8))
    theirs = LAYOUTS[1].to_theirs(network.state_dict(), {})
    x = torch.rand(1, 1, 16, 16)
    torch.testing.assert_close(network(x), deep_inverse(theirs, x), rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("layout", LAYOUTS, ids=lambda layout: layout.name)
def test_layouts_are_told_apart_and_come_back(layout) -> None:
    ours = trained(replace(VARIANTS["dncnn_b"], batch_norm=False, width=4)).state_dict()
    theirs = layout.to_theirs(ours, {})
    assert recognise(list(theirs), LAYOUTS, "file") is layout
    back = layout.to_ours(theirs, {}, "file")
    assert back.keys() == ours.keys()
    assert all(torch.equal(back[name], ours[name]) for name in ours)


def test_folded_norms_are_the_published_form() -> None:
    """A trained network with norms, folded, is the network without norms that is published."""
    with_norms = trained(replace(VARIANTS["dncnn_s"], width=8))
    folded = fold_batch_norm(trained(replace(VARIANTS["dncnn_s"], width=8)))
    plain = build(replace(VARIANTS["dncnn_s"], width=8, batch_norm=False)).eval()
    convolutions = [layer for layer in folded.modules() if isinstance(layer, nn.Conv2d)]
    theirs = {
        f"model.{2 * i}.{leaf}": getattr(layer, leaf)
        for i, layer in enumerate(convolutions)
        for leaf in ("weight", "bias")
    }
    plain.load_state_dict(LAYOUTS[0].to_ours(theirs, {}, "folded"))
    x = torch.rand(1, 1, 24, 24)
    torch.testing.assert_close(plain(x), with_norms(x), rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("record", PUBLISHED, ids=lambda record: record.name)
def test_published_sizes(record) -> None:
    with torch.device("meta"):
        network = build(replace(VARIANTS[record.network], **record.config))
    assert sum(p.numel() for p in network.parameters()) == record.parameters


@pytest.mark.parametrize("record", PUBLISHED, ids=lambda record: record.name)
def test_published_files_denoise_where_they_are_at_hand(record, picture: np.ndarray) -> None:
    """In the folder of published weights, $ABBE_WEIGHTS or its usual place; noise of their level, 25 of the blind."""
    path = weights_folder() / record.name
    if not path.exists():
        pytest.skip(f"{path} is not there; {record.address}")
    network = abbe.create(record.network, weights=path).eval()
    level = next((level for level in (15, 25, 50) if str(level) in record.name), 25) / 255
    clean = torch.from_numpy(picture)[None].expand(-1, network.in_channels, -1, -1)
    noisy = clean + level * torch.randn(clean.shape, generator=torch.Generator().manual_seed(0))
    with torch.inference_mode():
        before, after = ((image - clean).square().mean().log10() for image in (noisy, network(noisy)))
    assert 10 * (before - after) > 6


@pytest.mark.parametrize(("name", "field"), [("dncnn_s", 35), ("dncnn_b", 41)])
def test_receptive_field_is_the_papers(name: str, field: int) -> None:
    halo = receptive_halo(build(replace(VARIANTS[name], width=2)), 1, (1, 1))
    assert halo == (field // 2,) * 2


def test_without_residual_the_last_layer_is_the_image() -> None:
    config = replace(VARIANTS["dncnn_tiny"], batch_norm=False)
    network, other = trained(config), build(replace(config, residual=False)).eval()
    other.load_state_dict(network.state_dict())
    x = torch.rand(1, 1, 9, 9)
    torch.testing.assert_close(x - other(x), network(x))


@pytest.mark.parametrize("name", [name for name in VARIANTS if name != "dncnn_tiny"])
def test_a_fresh_network_gives_its_input_back_but_for_a_little(name: str) -> None:
    torch.manual_seed(0)
    x = torch.rand(4, VARIANTS[name].in_channels, 24, 24)
    with torch.no_grad():
        assert (build(VARIANTS[name]).train()(x) - x).std() < x.std() / 5
