"""Vectors are the features of the network before its last layer, whatever comes along with them."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

import abbe
from abbe import views
from abbe.data.image import Image
from abbe.embedding import FEATURES, Embedder, layers_of
from abbe.errors import AbbeError
from abbe.methods.catalog import entry, module_of
from abbe.model import Model, load_model
from abbe.settings import EmbedSettings

PLAIN: dict[str, Any] = {"device": "cpu", "precision": "exact"}
NETWORKS = {
    "resnet_tiny": 32,
    "convnext_test_tiny": 32,
    "alexnet_tiny": 67,
    "internimage_micro": 32,
    "vit_patch4_tiny": 16,
    "vit_rope_tiny": 16,
}
Write = Callable[..., Path]


@pytest.fixture(scope="module")
def model(backbone_file: Write) -> Model:
    return load_model(backbone_file())


def pictures(number: int, side: int = 32, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).integers(0, 255, (number, 3, side, side), endpoint=True).astype(np.uint8)


def vector(model: Model, pixels: np.ndarray, **options: Any) -> np.ndarray:
    """Embed one picture (C, Y, X)."""
    table = abbe.embed(Image(pixels, "CYX", name="a"), model, **PLAIN | options)
    assert len(table) == 1
    return table.to_numpy()[0]


@pytest.mark.parametrize("network", NETWORKS)
def test_vectors_are_what_the_network_gives_without_its_last_layer(network: str, backbone_file: Write) -> None:
    size = NETWORKS[network]
    file = backbone_file(network, size)
    bare = abbe.create(network, weights=file, num_classes=0).eval()
    pixels = pictures(1, size)
    with torch.inference_mode():
        expected = bare(torch.from_numpy(pixels / np.float32(255)))
    found = vector(load_model(file), pixels[0])
    np.testing.assert_allclose(found, expected[0].numpy(), rtol=1e-4, atol=1e-5)
    assert Embedder(load_model(file)).dimensions == len(found)


@pytest.mark.parametrize("network", NETWORKS)
def test_every_layer_that_is_named_can_be_had(network: str, backbone_file: Write) -> None:
    size = NETWORKS[network]
    loaded = load_model(backbone_file(network, size))
    inner: Any = loaded.method.network  # type: ignore[attr-defined]
    names = layers_of(inner)
    assert names[0] == FEATURES
    assert len(set(names)) == len(names) > 2
    x = pictures(1, size)
    tensor = torch.from_numpy(x / np.float32(255))
    for name in names:
        found = vector(loaded, x[0], layer=name)
        assert np.isfinite(found).all()
        if name.startswith("stages."):
            with torch.inference_mode():
                expected = inner.pyramid(tensor)[int(name[-1])].mean((-2, -1))
            np.testing.assert_allclose(found, expected[0].numpy(), rtol=1e-4, atol=1e-5)
    if "patches" in names:
        with torch.inference_mode():
            tokens = inner.tokens(tensor)[0].numpy()
        np.testing.assert_allclose(vector(loaded, x[0], layer="class"), tokens[0], rtol=1e-4, atol=1e-5)
        np.testing.assert_allclose(vector(loaded, x[0], layer="patches"), tokens[1:].mean(0), rtol=1e-4, atol=1e-5)


def test_norm_is_the_last_tokens_of_patches(backbone_file: Write) -> None:
    loaded = load_model(backbone_file("vit_patch4_tiny", 16))
    x = pictures(1, 16)[0]
    np.testing.assert_allclose(vector(loaded, x, layer="norm"), vector(loaded, x, layer="patches"), rtol=1e-5)


@settings(deadline=None, max_examples=15)
@given(st.permutations(range(7)), st.integers(1, 7))
def test_neither_order_nor_batch_changes_a_vector(model: Model, order: list[int], batch: int) -> None:
    embedder = Embedder(model, EmbedSettings(**PLAIN))
    squares = [embedder.views.picture(Image(one, "CYX")) for one in pictures(7)]
    alone = np.concatenate([next(embedder.vectors([one])) for one in squares])
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(views, "TOGETHER", batch)
        together = np.concatenate(list(embedder.vectors(squares[place] for place in order)))
    np.testing.assert_allclose(together, alone[order], rtol=1e-4, atol=1e-5)


def test_objects_have_the_vectors_of_their_crops(model: Model) -> None:
    pixels = pictures(1, 96)[0]
    labels = np.zeros((96, 96), np.int32)
    boxes = {3: (slice(4, 24), slice(10, 30)), 7: (slice(50, 90), slice(40, 80)), 8: (slice(30, 46), slice(0, 16))}
    for label, box in boxes.items():
        labels[box] = label
    table = abbe.embed(Image(pixels, "CYX"), model, objects=labels, object_margin=0.0, **PLAIN)
    assert table.index.name == "label"
    assert table.index.tolist() == [3, 7, 8]
    for label, box in boxes.items():
        np.testing.assert_allclose(table.loc[label], vector(model, pixels[:, *box]), rtol=1e-4, atol=1e-5)
    wide = abbe.embed(Image(pixels, "CYX"), model, objects=labels, object_side=20, **PLAIN)
    np.testing.assert_allclose(wide.loc[3], table.loc[3], rtol=1e-5)
    assert not np.allclose(wide.loc[7], table.loc[7])


def test_no_objects_are_no_vectors(model: Model) -> None:
    nothing = abbe.embed(Image(pictures(1)[0], "CYX"), model, objects=np.zeros((32, 32), np.int32), **PLAIN)
    assert nothing.shape == (0, Embedder(model).dimensions)


def test_every_frame_has_a_vector(model: Model) -> None:
    stack = pictures(6)[:, 0].reshape(2, 3, 32, 32)
    table = abbe.embed(stack, model, axes="TZYX", time="all", z="all", **PLAIN)
    assert table.index.names == ["time", "z"]
    assert table.index.tolist() == [(t, z) for t in range(2) for z in range(3)]
    np.testing.assert_allclose(table.loc[(1, 2)], vector(model, stack[1, 2][None]), rtol=1e-4, atol=1e-5)
    labels = np.zeros((3, 32, 32), np.int32)
    labels[1, 3:9, 3:9] = labels[2, 5:20, 5:20] = 4
    found = abbe.embed(stack[0], model, objects=abbe.read(labels, axes="ZYX"), axes="ZYX", z="all", **PLAIN)
    assert found.index.tolist() == [(1, 4), (2, 4)]
    with pytest.raises(AbbeError, match="pictures are planes; choose with --z"):
        abbe.embed(stack[0], model, objects=abbe.read(labels, axes="ZYX"), axes="ZYX", **PLAIN)


def test_the_prepared_path_gives_nearly_the_same(model: Model) -> None:
    pixels = pictures(1)[0]
    exact = vector(model, pixels)
    for backend in ("torch", "openvino"):
        if backend == "openvino":
            pytest.importorskip("openvino")
        found = vector(model, pixels, precision="float32", backend=backend)
        np.testing.assert_allclose(found, exact, rtol=1e-3, atol=1e-4)


def test_a_size_of_the_users_own(model: Model, backbone_file: Write) -> None:
    large = pictures(1, 64)[0]
    assert not np.allclose(vector(model, large, size=64), vector(model, large))
    tokens = load_model(backbone_file("vit_patch4_tiny", 16))
    assert len(vector(tokens, large, size=32)) == 24
    with pytest.raises(AbbeError, match=r"takes no squares of 30 px \(.*multiples of the patch.*\); choose others"):
        vector(tokens, large, size=30)
    with pytest.raises(AbbeError, match=r"takes no squares of 2 px \(.*below the stem's stride"):
        vector(model, large, size=2)


def test_what_gives_no_vectors_is_told(model: Model, bright: Model, texture_run: Path, textures: Any) -> None:
    with pytest.raises(AbbeError, match="model 'bright' does not look at whole pictures"):
        abbe.embed(np.zeros((40, 40), np.uint8), bright)
    with pytest.raises(AbbeError, match="Toy gives nothing but its classes, so it has no vectors"):
        abbe.embed(np.zeros((40, 40), np.uint8), texture_run)
    with pytest.raises(AbbeError, match=r"has no layer 'stage.1'; did you mean 'stages.1'\? \(all: features, stages.0"):
        abbe.embed(np.zeros((40, 40), np.uint8), model, layer="stage.1")


def test_networks_without_classes_have_no_layers() -> None:
    file = module_of(entry("roformer_tiny").file)
    assert layers_of(file.build(file.VARIANTS["roformer_tiny"])) == ()
