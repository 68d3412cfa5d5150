from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn

from abbe.contract import Method
from abbe.data.sample import Sample
from abbe.errors import AbbeError
from abbe.methods.backbones.classification import (
    Classification,
    ClassificationOptions,
    soft_cross_entropy,
    weights_of_classes,
)
from abbe.ops.totals import shared_batch
from abbe.tiling.prepare import Predictor

THREE = ClassificationOptions(classes=("a", "b", "c"), size=8)


def network(channels: int = 2, classes: int = 3) -> nn.Module:
    torch.manual_seed(0)
    return nn.Sequential(
        nn.Conv2d(channels, 4, 3), nn.ReLU(), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(4, classes)
    )


@settings(deadline=None, max_examples=30)
@given(st.integers(0, 999), st.integers(1, 7), st.integers(2, 5), st.floats(0, 0.9))
def test_the_loss_equals_that_of_torch(seed: int, n: int, k: int, smoothing: float) -> None:
    generator = torch.Generator().manual_seed(seed)
    logits = torch.randn(n, k, generator=generator) * 3
    target = torch.randint(k, (n,), generator=generator)
    even, weights = torch.ones(k), torch.rand(k, generator=generator) + 0.1
    ours = soft_cross_entropy(logits, F.one_hot(target, k).float(), smoothing, even)
    assert torch.allclose(ours, F.cross_entropy(logits, target, label_smoothing=smoothing), atol=1e-5)
    weighted = soft_cross_entropy(logits, F.one_hot(target, k).float(), 0.0, weights)
    assert torch.allclose(weighted, F.cross_entropy(logits, target, weight=weights), atol=1e-5)


def test_processes_that_share_a_batch_have_its_loss() -> None:
    logits, target = torch.randn(6, 3, generator=torch.Generator().manual_seed(0)), torch.tensor([0, 0, 0, 1, 2, 2])
    hot, weights = F.one_hot(target, 3).float(), torch.tensor([0.2, 1.0, 3.0])
    whole = soft_cross_entropy(logits, hot, 0.1, weights)
    mean = (hot @ weights).sum() / 2
    with shared_batch(lambda count: mean):
        parts = [soft_cross_entropy(logits[part], hot[part], 0.1, weights) for part in (slice(3), slice(3, 6))]
    assert torch.allclose(torch.stack(parts).mean(), whole)


def test_it_is_a_method_that_takes_what_it_prepares() -> None:
    method = Classification(network(), THREE)
    assert isinstance(method, Method)
    assert (method.in_channels, method.geometry.halo, method.geometry.multiple) == (2, None, (8, 8))
    sample = Sample(np.random.default_rng(0).random((2, 8, 8), dtype=np.float32), extra={"class": 2})
    one = method.prepare(sample, np.random.default_rng(0))
    losses = method.training_step({name: value[None] for name, value in one.items()}, generator=torch.Generator())
    assert set(losses) == {"loss", "right"}
    losses["loss"].backward()
    assert all(parameter.grad is not None for parameter in method.parameters())
    assert "class_weights" not in method.state_dict()
    with pytest.raises(AbbeError, match=r"x\.png: has no class to learn from"):
        method.prepare(Sample(sample.image, name="x.png"), np.random.default_rng(0))


def test_probabilities_are_softened_by_the_temperature_and_keep_their_order() -> None:
    x = torch.randn(5, 2, 8, 8)
    plain = Classification(network(), THREE).eval()
    warm = Classification(network(), ClassificationOptions(classes=THREE.classes, size=8, temperature=2.5)).eval()
    cool, soft = plain.predict(x), warm.predict(x)
    assert torch.equal(cool["logit"], soft["logit"])
    assert torch.allclose(soft["probability"], (cool["logit"] / 2.5).softmax(1))
    assert torch.equal(cool["probability"].argmax(1), soft["probability"].argmax(1))
    assert (soft["probability"].amax(1) <= cool["probability"].amax(1)).all()
    decoded = [warm.decode({"probability": row}) for row in soft["probability"].detach().numpy()]
    scores = warm.score(decoded, [{"class": found["class"]} for found in decoded])
    assert scores["top1"] == scores["balanced_accuracy"] == 1


def test_mixing_happens_in_training_only() -> None:
    options = ClassificationOptions(classes=("a", "b", "c"), size=8, mixup=1.0)
    method = Classification(network(), options)
    batch = {"image": torch.randn(4, 2, 8, 8), "class": torch.tensor([0, 1, 2, 0])}

    def loss(seed: int) -> torch.Tensor:
        return method.training_step(batch, generator=torch.Generator().manual_seed(seed))["loss"]

    assert loss(0) == loss(0)
    assert loss(0) != loss(1)
    method.eval()
    assert loss(0) == loss(1)


@pytest.mark.parametrize("backend", ["torch", "openvino"])
def test_the_prepared_path_agrees(backend: Any) -> None:
    if backend == "openvino":
        pytest.importorskip("openvino")
    method = Classification(network(1), THREE).eval()
    windows = np.random.default_rng(0).random((5, 1, 8, 8), dtype=np.float32)
    with torch.no_grad():
        exact = method.predict(torch.from_numpy(windows))["probability"].numpy()
    found = Predictor(method, device="cpu", precision="float32", backend=backend)(windows)["probability"]
    assert np.allclose(found, exact, atol=1e-4)


@settings(deadline=None, max_examples=30)
@given(st.lists(st.integers(1, 10**5), min_size=2, max_size=12), st.floats(0, 1))
def test_weights_have_a_mean_of_one_and_favour_the_rare(counts: list[int], balance: float) -> None:
    weights = np.array(weights_of_classes(counts, balance))
    assert np.average(weights, weights=counts) == pytest.approx(1, rel=1e-3)
    assert (np.diff(weights[np.argsort(counts, kind="stable")]) <= 1e-5).all()


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"classes": ("a", "a")}, "a more than once"),
        ({"classes": ("a", "b"), "class_weights": (1.0,)}, "1 weights for 2 classes"),
        ({"mixup": -1.0}, "expected none below 0"),
        ({"temperature": 0.0}, "expected none below 0"),
        ({"label_smoothing": 1.0}, "expected shares from 0 to 1"),
    ],
)
def test_options_that_cannot_be_are_told(options: dict[str, Any], words: str) -> None:
    with pytest.raises(AbbeError, match=words):
        ClassificationOptions(**options)
