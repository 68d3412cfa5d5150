"""Arithmetic and memory layout."""

from __future__ import annotations

from types import SimpleNamespace

import pytest
import torch
from torch import nn

from abbe.train.precision import (
    are_thin,
    batch_to_channels_last,
    resolve_accelerator,
    resolve_precision,
    to_channels_last,
)


def test_auto_means_bfloat16_only_where_it_is_native(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("_is_avx512_bf16_supported", "_is_amx_tile_supported"):
        monkeypatch.setattr(torch.cpu, name, lambda: False, raising=False)
    assert resolve_precision("auto", "cpu") == "float32"
    monkeypatch.setattr(torch.cpu, "_is_amx_tile_supported", lambda: True, raising=False)
    assert resolve_precision("auto", "cpu") == "bfloat16"
    assert resolve_precision("float32", "cpu") == "float32"
    assert resolve_precision("auto", "cpu", thin=True) == "float32"
    assert resolve_precision("bfloat16", "cpu", thin=True) == "bfloat16"
    assert resolve_precision("auto", "mps") == "float32"


def test_accelerator_named_is_taken() -> None:
    assert resolve_accelerator("cpu") == "cpu"
    assert resolve_accelerator("auto") in ("cpu", "cuda", "mps")


def test_only_images_stacks_and_their_kernels_change_layout() -> None:
    flat, deep = nn.Conv2d(3, 4, 3), nn.Conv3d(3, 4, 3)
    module = nn.ModuleList([flat, deep, nn.Linear(3, 4)])
    values = [parameter.detach().clone() for parameter in module.parameters()]
    to_channels_last(module)
    assert flat.weight.is_contiguous(memory_format=torch.channels_last)
    assert deep.weight.is_contiguous(memory_format=torch.channels_last_3d)
    assert all(torch.equal(a, b) for a, b in zip(values, module.parameters(), strict=True))
    images = {"image": torch.rand(2, 3, 4, 4), "stack": torch.rand(2, 3, 4, 4, 4)}
    batch = batch_to_channels_last(images | {"labels": torch.ones(2, 3, 4, 4).int()})
    assert batch["image"].is_contiguous(memory_format=torch.channels_last)
    assert batch["stack"].is_contiguous(memory_format=torch.channels_last_3d)
    assert batch["labels"].is_contiguous()


@pytest.mark.parametrize(
    ("multiple", "crop", "expected"),
    [((4, 4, 4), (4, 64, 64), True), ((4, 4, 4), (16, 64, 64), False), ((4, 4, 4), 8, True), ((4, 4), (4, 4), False)],
)
def test_stacks_that_are_thinner_than_a_kernel_are_known(multiple, crop, expected) -> None:
    assert are_thin(crop, SimpleNamespace(geometry=SimpleNamespace(multiple=multiple))) is expected
    assert not are_thin(crop, object())
