"""The claims of the attention papers, with budgets of seconds: what is measured is right, and runs can be repeated."""

from __future__ import annotations

import math
from dataclasses import replace
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch
from matplotlib.figure import Figure

from abbe.data.sequences import make_sum
from abbe.errors import AbbeError
from abbe.methods.attention.transformer import VARIANTS, build
from abbe.methods.attention.translation import Translation, TranslationOptions
from abbe.methods.attention.vit import ViT, ViTConfig
from abbe.reproduce import roformer, transformer, vit
from abbe.reproduce.claims import CLAIMS, ClaimSettings, Found
from abbe.reproduce.pictures import load_pictures
from abbe.train.schedule import learning_rate_factor

SECONDS = {
    "network.width": 32,
    "network.depth": 1,
    "data.sums.digits": 1,
    "data.sums.validated": 2,
    "data.sums.tested": 2,
    "train.epochs": 2,
    "train.steps_per_epoch": 4,
    "train.warmup_steps": 3,
    "train.batch_size": 8,
    "train.workers": 0,
    "train.accelerator": "cpu",
}


@pytest.fixture(autouse=True)
def seconds(monkeypatch: pytest.MonkeyPatch) -> None:
    """Let every claim try next to nothing."""
    short = roformer.Budget(200, 1, 4, 2, 4, 16, 8, 32, 1)
    monkeypatch.setattr(roformer, "BUDGET", short)
    monkeypatch.setattr(transformer, "BUDGET", transformer.Budget((2, 5), 32, 1, SECONDS))
    monkeypatch.setattr(vit, "BUDGET", vit.Budget(1, 2, 1, 16, 1e-3, 40, 20, 4, 16, 3, 2))


@pytest.mark.parametrize("name", ["transformer", "roformer", "vit"])
def test_a_claim_gives_numbers_and_a_figure(name: str) -> None:
    module = {"transformer": transformer, "roformer": roformer, "vit": vit}[name]
    told: list[str] = []
    found: Found = module.run(ClaimSettings(), told.append)
    assert CLAIMS[name].module == module.__name__
    assert isinstance(found.holds, bool)
    assert isinstance(found.figure, Figure)
    assert len(found.table)
    assert found.sentence.endswith(".")
    assert told


# ----------------------------------------------------------------------------------------------------- RoFormer


def test_rotary_scores_do_not_depend_on_the_place_and_sinusoids_do() -> None:
    assert roformer.largest_change("rotary", 0) < roformer.ENOUGH < roformer.largest_change("sinusoidal", 0)


def test_the_bound_by_hand() -> None:
    """At distance 0 all turns are 1, so that |S_i| = i; elsewhere by sums of complex numbers."""
    channels, distance = 6, 3
    assert roformer.bound(torch.tensor([0]), channels)[0] == pytest.approx((1 + 2 + 3) / 3)
    turns = [np.exp(1j * distance * 10000 ** (-2 * j / channels)) for j in range(3)]
    expected = np.mean([abs(sum(turns[: i + 1])) for i in range(3)])
    assert roformer.bound(torch.tensor([distance]), channels)[0] == pytest.approx(expected, rel=1e-5)


def test_a_text_of_ones_own_is_read_as_characters(tmp_path: Path) -> None:
    path = tmp_path / "a.txt"
    path.write_text("Aé b\n" * 10000, encoding="utf-8")
    tokens = roformer.prose(path)
    assert [roformer.CHARACTERS[token - roformer.FIRST] for token in tokens[:4]] == ["A", " ", "b", "\n"]
    path.write_text("short", encoding="utf-8")
    with pytest.raises(AbbeError, match=r"a\.txt: 5 characters of English; expected a text of 20,000 at least"):
        roformer.prose(path)
    path.write_bytes(b"\xff\xfe\x00" * 20000)
    with pytest.raises(AbbeError, match=r"a\.txt: cannot be read as text"):
        roformer.prose(path)


def test_both_kinds_of_positions_learn_from_the_same_windows() -> None:
    text = roformer.prose()
    assert len(text) > 10000
    assert text.min() >= roformer.FIRST
    cut = roformer._window(text, 16)
    one, other = (cut(np.random.default_rng(3)).source for _ in range(2))
    assert np.array_equal(one, other)
    one, other = (roformer.learning_curve("rotary", 5, text[:-500], text[-500:]) for _ in range(2))
    pd.testing.assert_frame_equal(one, other)
    assert one["step"].tolist() == [2, 4]


# -------------------------------------------------------------------------------------------------- Transformer


def test_writing_with_the_cache_and_without_gives_the_whole_pass() -> None:
    network = build(VARIANTS["transformer_tiny"]).eval()
    source, target = torch.randint(3, 16, (2, 7)), torch.randint(3, 16, (2, 6))
    with torch.no_grad():
        whole = network(source, target)
        torch.testing.assert_close(transformer.with_cache(network, source, target), whole, atol=1e-5, rtol=1e-5)
        torch.testing.assert_close(transformer.without_cache(network, source, target), whole, atol=1e-5, rtol=1e-5)


def test_perplexity_of_a_network_that_knows_nothing_is_the_number_of_tokens() -> None:
    network = build(replace(VARIANTS["transformer_tiny"], dropout=0.0)).eval()
    torch.nn.init.zeros_(network.embedding.weight)  # all logits are zero
    method = Translation(network, TranslationOptions(longest=8))
    assert transformer.perplexity(method, [make_sum(95, 7), make_sum(3, 4)]) == pytest.approx(16, rel=1e-5)


def test_the_constant_rate_is_the_mean_of_the_schedule() -> None:
    rates = [learning_rate_factor(step, total=8, warmup=3, schedule="inverse_root") for step in range(8)]
    changes = transformer.kinds()[transformer.MEAN]
    assert changes["train.learning_rate"] == pytest.approx(6.25e-3 * np.mean(rates))


# ----------------------------------------------------------------------------------------------- vision transformer


def test_distances_of_attention_by_hand() -> None:
    """Two by two patches of 4 pixels; attention is even where queries are zero: (0 + 4 + 4 + 4√2) / 4."""
    network = ViT(ViTConfig(1, 2, 8, 4, width=8, depth=2, heads=2, mlp=16)).eval()
    for block in network.blocks:
        torch.nn.init.zeros_(block.attention.qkv.weight)
        torch.nn.init.zeros_(block.attention.qkv.bias)
    with torch.no_grad():
        found = vit.attention_distance(network, torch.rand(3, 1, 8, 8))
    assert found.shape == (2, 2)
    assert found.numpy() == pytest.approx((8 + 4 * math.sqrt(2)) / 4, rel=1e-5)
    assert vit.patch_distances((2, 2), (4, 4))[0].tolist() == pytest.approx([0, 4, 4, 4 * math.sqrt(2)])


def test_without_positions_the_order_of_the_patches_is_unknown() -> None:
    pictures = load_pictures(None, 40, 20, 0)
    network, accuracy = vit.learn(vit.KINDS[1], pictures, 0)
    assert not network.positions.any()
    assert accuracy["accuracy"].between(0, 1).all()
    image = pictures.held_out_pixels[:1]
    moved = image.roll(vit.PATCH, dims=3)
    with torch.no_grad():
        torch.testing.assert_close(network(image), network(moved), atol=1e-4, rtol=1e-4)


def test_the_verdict_on_attention_is_that_of_the_numbers() -> None:
    """Two layers of two heads; accuracies of 0.6 and 0.4 on 1000 pictures differ by far more than chance."""
    far = pd.DataFrame({"layer": [1, 1, 2, 2], "distance": [3.0, 9.0, 10.0, 12.0]})
    learned = pd.DataFrame({"kind": vit.KINDS, "seed": 0, "accuracy": [0.6, 0.4]})
    assert vit.judged(learned, far, 1000)[0]
    assert not vit.judged(learned.assign(accuracy=[0.6, 0.59]), far, 1000)[0]
    assert not vit.judged(learned, far.assign(distance=[3.0, 9.0, 5.0, 5.0]), 1000)[0]
    assert not vit.judged(learned, far.assign(distance=[8.0, 9.0, 10.0, 12.0]), 1000)[0]
