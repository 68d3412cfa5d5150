"""Networks and images that several tests share; among them a model that finds exactly what is bright."""

from __future__ import annotations

import dataclasses
import importlib.util
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import tifffile
import torch
from scipy import ndimage
from torch import nn
from torch.nn import functional as F

from abbe.learn import train_recipe
from abbe.methods.backbones.unet_residual import VARIANTS, UNetResidual, build
from abbe.methods.catalog import entry, module_of
from abbe.methods.segmentation.instances import InstancesConfig, InstanceSegmentation
from abbe.model import Model, load_model
from abbe.settings import SegmentSettings
from abbe.weights.file import Description, save_model

BACKGROUND, BRIGHT = 100, 1000


@pytest.fixture(autouse=True, scope="session")
def one_thread() -> Iterator[None]:
    """Networks of these tests are too small to share among threads."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


@pytest.fixture(scope="session")
def randomised() -> Callable[..., Any]:
    """Draw weights, and statistics of batch norms as if they had seen data; evaluation mode."""

    def draw(network: nn.Module, seed: int = 0) -> nn.Module:
        generator = torch.Generator().manual_seed(seed)
        with torch.no_grad():
            for parameter in network.parameters():
                fan = parameter[0].numel() if parameter.ndim > 1 else 10
                parameter.copy_(torch.randn(parameter.shape, generator=generator) * (2 / fan) ** 0.5)
            for module in network.modules():
                if isinstance(module, nn.BatchNorm2d | nn.BatchNorm3d):
                    shape = module.weight.shape
                    module.weight.copy_(0.5 + torch.rand(shape, generator=generator))
                    assert module.running_mean is not None
                    assert module.running_var is not None
                    module.running_mean.copy_(torch.randn(shape, generator=generator) * 0.3)
                    module.running_var.copy_(0.5 + torch.rand(shape, generator=generator))
        return network.eval()

    return draw


@pytest.fixture(scope="session")
def tiny(randomised: Callable[..., Any]) -> InstanceSegmentation:
    """The smallest residual U-Net with random weights, in its objective; half of an image is foreground."""
    network = randomised(build(VARIANTS["unet_residual_tiny"]))
    picture = torch.rand(1, 1, 256, 256, generator=torch.Generator().manual_seed(0)).expand(-1, 3, -1, -1)
    with torch.no_grad():
        network.head.bias[0] -= network(F.avg_pool2d(picture, 5, 1, 2))[:, 0].median()
    return InstanceSegmentation(network).eval()


@pytest.fixture(scope="session")
def bright_file(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A model file: foreground is where the mean of the channels is nearer to white than to black."""
    config = VARIANTS["unet_residual_tiny"]
    method = InstanceSegmentation(bright_network(build(config)))
    description = Description(
        name="bright",
        network="unet_residual_tiny",
        config=dataclasses.asdict(config),
        objective="instances",
        options=dataclasses.asdict(InstancesConfig(prominence=0.6)),  # a bright neck between two discs is no valley
        normalization={"kind": "percentile", "low": 1.0, "high": 99.8, "joint": True},
        diameter=(8.0, 40.0),
        licence="CC0",
        abbe="0",
    )
    return save_model(tmp_path_factory.mktemp("models") / "bright.safetensors", method.state_dict(), description)


@pytest.fixture(scope="session")
def bright(bright_file: Path) -> Model:
    return load_model(bright_file)


@pytest.fixture(scope="session")
def plain() -> SegmentSettings:
    """The same arithmetic on every machine."""
    return SegmentSettings(device="cpu", precision="exact")


@pytest.fixture(scope="session")
def backbone_file(randomised: Callable[..., Any], tmp_path_factory: pytest.TempPathFactory) -> Callable[..., Path]:
    """Write a model file of a network of whole pictures with random weights; its description as told."""

    def write(network: str = "resnet_tiny", size: int = 32, **told: Any) -> Path:
        file = module_of(entry(network).file)
        built = randomised(file.build(file.VARIANTS[network]))
        description = Description(
            name=told.pop("name", "backbone"),
            network=network,
            config=dataclasses.asdict(file.VARIANTS[network]),
            objective="classification",
            options={"size": size} if size else {},
            **{"normalization": {"kind": "range"}, "licence": "CC0", "abbe": "0"} | told,
        )
        tensors = {f"network.{name}": tensor for name, tensor in built.state_dict().items()}
        return save_model(tmp_path_factory.mktemp("backbones") / "backbone.safetensors", tensors, description)

    return write


def bright_network(network: UNetResidual) -> UNetResidual:
    """Set weights by hand: one channel carries the mean of the image's at full resolution, all else is zero.

    The head makes 20 (x - 0.5) of it for the foreground and 24 (x - 0.83) for the depth.
    """
    with torch.no_grad():
        for module in network.modules():
            if isinstance(module, nn.Conv2d):
                nn.init.zeros_(module.weight)
                if module.bias is not None:
                    nn.init.zeros_(module.bias)
        network.detail.weight[0, :, 1, 1] = 1 / network.in_channels
        network.head.weight[:, 0] = torch.tensor([20.0, 24.0]).view(2, 1, 1)
        network.head.bias[:] = torch.tensor([-10.0, -20.0])
    return network.eval()


@pytest.fixture(scope="session")
def discs() -> Callable[..., tuple[np.ndarray, np.ndarray]]:
    """Draw a picture of bright discs and the labels of their connected regions."""

    def draw(
        shape: tuple[int, int] = (96, 112), number: int = 6, seed: int = 0, radius: float = 6.0, dtype: str = "uint16"
    ) -> tuple[np.ndarray, np.ndarray]:
        rng = np.random.default_rng(seed)
        grid = np.mgrid[: shape[0], : shape[1]]
        bright = np.zeros(shape, bool)
        for centre in rng.uniform(0, shape, (number, 2)):
            bright |= ((grid - centre[:, None, None]) ** 2).sum(0) < radius**2
        labels, _ = ndimage.label(bright)
        keep = np.bincount(labels.ravel()) >= InstancesConfig().min_area
        bright &= keep[labels]
        dark, light = (BACKGROUND, BRIGHT) if dtype != "uint8" else (20, 220)
        return np.where(bright, light, dark).astype(dtype), ndimage.label(bright)[0].astype(np.int32)

    return draw


@pytest.fixture(scope="session")
def same_objects() -> Callable[[np.ndarray, np.ndarray], bool]:
    """Tell whether two label images hold the same objects, whatever their numbers."""

    def same(one: np.ndarray, other: np.ndarray) -> bool:
        pairs = np.unique(np.stack([one.ravel(), other.ravel()]), axis=1)
        return all(len(np.unique(side)) == pairs.shape[1] for side in pairs) and np.array_equal(one > 0, other > 0)

    return same


@pytest.fixture(scope="session")
def annotated(tmp_path_factory: pytest.TempPathFactory, discs: Callable[..., tuple[np.ndarray, np.ndarray]]) -> Path:
    """A folder of annotated discs: train (6), val (2) and test (2), each with images/ and masks/."""
    root = tmp_path_factory.mktemp("annotated")
    seed = 0
    for split, number in (("train", 6), ("val", 2), ("test", 2)):
        for folder in ("images", "masks"):
            (root / split / folder).mkdir(parents=True)
        for i in range(number):
            seed += 1
            image, labels = discs((64, 72), 6, seed, 7.0, "uint8")
            noise = np.random.default_rng(seed).integers(0, 10, image.shape).astype(np.uint8)
            tifffile.imwrite(root / split / "images" / f"{i}.tif", image + noise)
            tifffile.imwrite(root / split / "masks" / f"{i}.tif", labels.astype(np.uint16))
    return root


@pytest.fixture(scope="session")
def tiny_recipe(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A recipe that trains the smallest network for a few steps."""
    path = tmp_path_factory.mktemp("recipes") / "toy.toml"
    path.write_text(RECIPE, encoding="utf-8")
    return path


def _textures() -> Any:
    """Load the helpers for tests of classes once, by their file."""
    if "abbe_tests_classes" not in sys.modules:
        spec = importlib.util.spec_from_file_location("abbe_tests_classes", Path(__file__).with_name("classes.py"))
        assert spec is not None
        assert spec.loader is not None
        module = importlib.util.module_from_spec(spec)
        sys.modules["abbe_tests_classes"] = module
        spec.loader.exec_module(module)
    return sys.modules["abbe_tests_classes"]


@pytest.fixture(scope="session")
def texture_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Class folders of textures, in four groups."""
    root = tmp_path_factory.mktemp("textures") / "data"
    return _textures().write_folders(root, {"coarse": 12, "fine": 12, "smooth": 12})


@pytest.fixture(scope="session")
def texture_run(texture_folder: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The run folder of a classifier of textures, trained for seconds."""
    root = tmp_path_factory.mktemp("texture_runs")
    (root / "textures.toml").write_text(_textures().RECIPE, encoding="utf-8")
    with _textures().registered():
        return train_recipe(root / "textures.toml", [texture_folder], out=root / "run").run


@pytest.fixture(scope="module")
def textures() -> Iterator[Any]:
    """The helpers, while the catalog knows their network."""
    with _textures().registered():
        yield _textures()


RECIPE = """\
# Bright discs: a toy
# command: abbe train toy.toml --data discs
# cost: seconds
# result: none

name = "toy"
method = "unet_residual_tiny"
diameter = [4.0, 60.0]
licence = "CC0"

[options]
prominence = 0.2

[data]
in_channels = 1
sources = ["discs (CC0)"]

[data.normalization]
kind = "minmax"

[train]
epochs = 2
steps_per_epoch = 2
batch_size = 2
crop = 32
ema_decay = 0.5
precision = "float32"
accelerator = "cpu"
"""
