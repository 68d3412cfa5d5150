"""The prepared path computes what the plain forward computes, and memory that runs short is no end."""

from __future__ import annotations

import copy
import importlib.util
import logging
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
from torch import nn

from abbe.api import load
from abbe.contract import Geometry
from abbe.errors import AbbeError
from abbe.methods.backbones.classification import Classification, ClassificationOptions
from abbe.methods.backbones.unet import UNet, UNetConfig, UNetSegmentation
from abbe.methods.backbones.unet_3d import UNet3DConfig
from abbe.methods.backbones.unet_3d import build as build_3d
from abbe.methods.catalog import entry, module_of, variant
from abbe.methods.segmentation.instances import InstanceSegmentation
from abbe.tiling import prepare
from abbe.tiling.prepare import Predictor, choose_backend, choose_device, choose_precision

needs_openvino = pytest.mark.skipif(not importlib.util.find_spec("openvino"), reason="the extra [fast] is not here")


def windows(channels: int = 3, shape: tuple[int, int] = (64, 48), number: int = 2) -> np.ndarray:
    return np.random.default_rng(0).normal(size=(number, channels, *shape)).astype(np.float32)


def relative_difference(found: dict[str, np.ndarray], expected: dict[str, np.ndarray]) -> float:
    assert found.keys() == expected.keys()
    return max(float(np.abs(found[k] - expected[k]).max() / np.abs(expected[k]).max()) for k in expected)


@pytest.fixture(scope="module")
def exact(tiny: InstanceSegmentation) -> dict[str, np.ndarray]:
    return Predictor(tiny, device="cpu", precision="exact")(windows())


def test_exact_is_the_plain_forward(tiny: InstanceSegmentation, exact: dict[str, np.ndarray]) -> None:
    with torch.inference_mode():
        expected = tiny.predict(torch.from_numpy(windows()))
    for name, maps in expected.items():
        assert exact[name].dtype == np.float32
        assert np.array_equal(exact[name], maps.numpy())


@pytest.mark.parametrize(("precision", "tolerance"), [("float32", 1e-4), ("bfloat16", 3e-2)])
def test_torch_path(
    tiny: InstanceSegmentation, exact: dict[str, np.ndarray], precision: prepare.Precision, tolerance: float
) -> None:
    predictor = Predictor(tiny, device="cpu", precision=precision, backend="torch")
    assert relative_difference(predictor(windows()), exact) < tolerance


@needs_openvino
def test_openvino_path_takes_any_batch_and_extents(tiny: InstanceSegmentation, exact: dict[str, np.ndarray]) -> None:
    predictor = Predictor(tiny, device="cpu", precision="float32", backend="openvino")
    assert relative_difference(predictor(windows()), exact) < 1e-4
    other = windows(shape=(20, 76), number=1)
    plain = Predictor(tiny, device="cpu", precision="exact")
    assert relative_difference(predictor(other), plain(other)) < 1e-4


@needs_openvino
def test_openvino_gives_the_same_bits_whatever_came_before(tiny: InstanceSegmentation) -> None:
    predictor = Predictor(tiny, device="cpu", backend="openvino")
    small, large = (np.random.default_rng(0).random((1, 3, side, side), np.float32) for side in (32, 64))
    first, again, other, back = (predictor(windows) for windows in (small, small, large, small))
    for name, maps in first.items():
        np.testing.assert_array_equal(again[name], maps)
        np.testing.assert_array_equal(back[name], maps)
        assert other[name].shape[-2:] == (64, 64)


CLASSIFIERS = {
    "resnet_tiny": 40,
    "convnext_test_tiny": 64,
    "vit_patch4_tiny": 16,
    "vit_rope_tiny": 16,
    "internimage_micro": 32,
}
"""Networks of every kind, and the side of their pictures."""


@pytest.fixture(params=CLASSIFIERS)
def classifier(request: pytest.FixtureRequest, randomised: Callable[..., Any]) -> Classification:
    name = request.param
    network = randomised(module_of(entry(name).file).build(variant(name)))
    classes = tuple(map(str, range(variant(name).num_classes)))
    return Classification(network, ClassificationOptions(classes, size=CLASSIFIERS[name])).eval()


@pytest.mark.parametrize("backend", ["torch", pytest.param("openvino", marks=needs_openvino)])
def test_classifiers_take_every_path(classifier: Classification, backend: Any) -> None:
    pictures = windows(shape=classifier.geometry.multiple)
    plain = Predictor(classifier, device="cpu", precision="exact")(pictures)
    with torch.inference_mode():
        assert np.array_equal(plain["logit"], classifier(torch.from_numpy(pictures)).numpy())
    fast = Predictor(classifier, device="cpu", precision="float32", backend=backend)
    for number in (2, 1, 1):  # the second one of a kind is compiled for its shape
        found = fast(pictures[:number])
        assert relative_difference(found, {name: maps[:number] for name, maps in plain.items()}) < 1e-4


@needs_openvino
def test_openvino_path_of_an_unpadded_network(randomised: Callable[..., Any]) -> None:
    method = UNetSegmentation(randomised(UNet(UNetConfig(width=2, depth=1, dropout=0.0))))
    image = windows(1, (32, 28), 1)
    fast = Predictor(method, device="cpu", precision="float32", backend="openvino")
    assert relative_difference(fast(image), Predictor(method, device="cpu", precision="exact")(image)) < 1e-4


@pytest.mark.parametrize("backend", ["torch", pytest.param("openvino", marks=needs_openvino)])
@pytest.mark.parametrize("channels", [1, 2])
def test_stacks_take_every_path(randomised: Callable[..., Any], backend: Any, channels: int) -> None:
    config = UNet3DConfig(in_channels=channels, width=2, levels=(1, 2, 2))
    method = InstanceSegmentation(randomised(build_3d(config)))
    stacks = np.random.default_rng(0).random((2, 1, 6, 20, 24), np.float32)
    exact = Predictor(method, device="cpu", precision="exact")(stacks)
    assert exact["depth"].shape == stacks.shape
    fast = Predictor(method, device="cpu", precision="float32", backend=backend)
    assert relative_difference(fast(stacks), exact) < 1e-4


def test_the_method_itself_is_left_alone(tiny: InstanceSegmentation) -> None:
    method = copy.deepcopy(tiny).train()
    before = copy.deepcopy(method.state_dict())
    Predictor(method, device="cpu", precision="bfloat16", backend="torch")(windows())
    assert method.training
    assert all(torch.equal(before[name], value) for name, value in method.state_dict().items())
    assert all(parameter.requires_grad for parameter in method.parameters())


class Hungry(nn.Module):
    """Runs out of memory with more than ``most`` windows at once."""

    in_channels, geometry = 1, Geometry((0, 0), (1, 1))

    def __init__(self, most: int):
        super().__init__()
        self.most = most

    def predict(self, x: torch.Tensor) -> dict[str, torch.Tensor]:
        if len(x) > self.most:
            raise torch.OutOfMemoryError("out of memory")
        return {"double": 2 * x}


@pytest.mark.parametrize(("most", "told"), [(7, 0), (5, 1), (2, 2), (1, 2)])
def test_short_memory_halves_the_batch_and_says_so(most: int, told: int, caplog: pytest.LogCaptureFixture) -> None:
    predictor = Predictor(Hungry(most), device="cpu", backend="torch", precision="float32")
    x = windows(1, (4, 5), 7)
    with caplog.at_level(logging.WARNING):
        assert np.array_equal(predictor(x)["double"], 2 * x)
    assert len(caplog.records) == told
    assert all("out of memory on cpu" in record.getMessage() for record in caplog.records)
    caplog.clear()
    assert np.array_equal(predictor(x)["double"], 2 * x)  # what was learned is kept
    assert not caplog.records


def test_memory_short_for_a_single_tile_is_one_sentence() -> None:
    predictor = Predictor(Hungry(0), device="cpu", backend="torch", precision="float32")
    with pytest.raises(AbbeError, match="out of memory on cpu with a single tile; .*--tile"):
        predictor(windows(1, (4, 5), 3))


def test_unknown_choices_are_told() -> None:
    with pytest.raises(AbbeError, match="no device is called 'tpu'; choose auto, cpu, cuda or mps"):
        choose_device("tpu")
    with pytest.raises(AbbeError, match="no precision is called 'half'; choose auto, bfloat16, float32, exact"):
        choose_precision("half", "cpu")
    with pytest.raises(AbbeError, match="no backend is called 'onnx'; choose auto, torch, openvino"):
        choose_backend("onnx", "cpu", "float32")


def test_a_device_that_is_not_here_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    monkeypatch.setattr(torch.backends.mps, "is_available", lambda: False)
    with pytest.raises(AbbeError, match="device 'cuda' is not available here; `abbe doctor`"):
        choose_device("cuda")
    assert choose_device("auto") == "cpu"
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    assert choose_device("auto") == "cuda"


@pytest.mark.parametrize(("native", "chosen"), [(True, "bfloat16"), (False, "float32")])
def test_auto_takes_bfloat16_only_where_it_is_native(
    native: bool, chosen: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(prepare, "computes_bfloat16", lambda device: native)
    assert choose_precision("auto", "cpu") == chosen
    assert choose_precision("float32", "cpu") == "float32"


def test_what_cannot_be_traced_stays_with_torch() -> None:
    assert choose_backend("auto", "cpu", "float32", traced=False) == "torch"
    with pytest.raises(AbbeError, match="other extents"):
        choose_backend("openvino", "cpu", "float32", traced=False)


@pytest.mark.parametrize("name", ["denoise", "deblur"])
@pytest.mark.parametrize("extents", [(64, 96), (192, 192), (200, 264)])
def test_a_restoration_is_the_plain_forward_at_any_extents(name: str, extents: tuple[int, int]) -> None:
    method = load(name).method
    x = np.random.default_rng(0).random((1, 1, *extents), np.float32)
    found, plain = (Predictor(method, precision=how)(x)["restored"] for how in ("float32", "exact"))
    np.testing.assert_allclose(found, plain, atol=1e-4)


@pytest.mark.parametrize("installed", [True, False])
def test_openvino_is_taken_where_it_is_installed(installed: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: installed or None)
    assert choose_backend("auto", "cpu", "float32") == ("openvino" if installed else "torch")
    assert choose_backend("auto", "cuda", "bfloat16") == "torch"
    assert choose_backend("openvino", "cpu", "exact") == "torch"
    if not installed:
        with pytest.raises(AbbeError, match=r"not installed; pip install 'abbe\[fast\]'"):
            choose_backend("openvino", "cpu", "float32")
