"""The card of whatever has a name, or is a model file."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file

from abbe.cards import card, file_card, model_card, summary
from abbe.errors import AbbeError
from abbe.weights.file import Description, count_parameters, save_model

PUBLISHED = Description(
    name="mine",
    network="resnet50",
    config={"in_channels": 3, "num_classes": 1000},
    objective="classification",
    colours={"mean": [0.485, 0.456, 0.406], "std": [0.229, 0.224, 0.225], "size": 224},
    data=["ImageNet-1k, as https://example.org/resnet50.pth"],
    metrics={"ImageNet-1k validation, as published": {"top-1 %": 76.13}},
    licence="BSD-3-Clause",
    abbe="0.1.0",
)


def test_a_file_gets_a_card_with_all_that_it_says(tmp_path: Path) -> None:
    tensors = {"network.a.weight": torch.zeros(3, 4), "network.a.running_mean": torch.zeros(4)}
    path = save_model(tmp_path / "mine.safetensors", tensors, PUBLISHED)
    text = card(str(path))
    for told in (
        "Deep Residual Learning for Image Recognition (2015), arXiv:1512.03385",
        "0 to 1, then less 0.485, 0.456, 0.406 and over 0.229, 0.224, 0.225 per channel, at 224 px",
        "1000 classes, whose names are not known",
        "top-1 % 76.13 on ImageNet-1k validation, as published",
        "BSD-3-Clause",
        "as https://example.org/resnet50.pth",
        "sha256",
    ):
        assert told in text
    assert count_parameters(path) == 12
    assert card(str(tmp_path / "mine.safetensors")) == file_card(path).strip()


def test_the_folder_of_a_training_has_the_card_of_its_model(bright_file: Path, tmp_path: Path) -> None:
    (tmp_path / "run").mkdir()
    (tmp_path / "run" / "model.safetensors").write_bytes(bright_file.read_bytes())
    text = card(str(tmp_path / "run"))
    assert "percentiles 1 and 99.8 of the whole image become 0 and 1" in text
    assert "8 to 40 px across" in text
    assert "CC0" in text


@pytest.mark.parametrize("licence", ["CC0-1.0", ""])
def test_a_summary_tells_the_licence_or_that_nobody_knows_it(licence: str, tmp_path: Path) -> None:
    path = save_model(tmp_path / "a.safetensors", {"a": torch.zeros(5, 2000)}, replace(PUBLISHED, licence=licence))
    told = f"licence {licence or 'unknown'}"
    assert summary(path) == f"resnet50; 0.01 M parameters; 3 channels; 1000 classes, whose names are not known; {told}"


def test_the_least_that_a_model_may_say_has_a_card() -> None:
    text = model_card(Description(name="a", network="none of ours", options={"classes": ["x", "y"]}))
    assert "2 classes: x, y" in text
    assert "licence     unknown" in text


def test_what_is_no_model_is_told(tmp_path: Path) -> None:
    save_file({"a": torch.zeros(2)}, tmp_path / "a.safetensors")
    with pytest.raises(AbbeError, match="without Abbe's description"):
        card(str(tmp_path / "a.safetensors"))
    with pytest.raises(AbbeError, match="no model, network or recipe has that name, nor has a file"):
        card(str(tmp_path / "b.safetensors"))
