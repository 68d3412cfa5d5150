"""From a recipe without data to a model that adds, and says what it can."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch

import abbe
from abbe.api import evaluate, translate
from abbe.data.sequences import CHARACTERS, VOCABULARY, SumsConfig, held_out_sums, to_text
from abbe.errors import AbbeError
from abbe.learn import train_recipe
from abbe.learn_sequences import SequenceValidation, settle_sequences, sums_of
from abbe.model import load_model
from abbe.train.recipe import load_recipe
from abbe.translation import translated
from abbe.weights.file import read_description

SMALL = {
    "network.width": "32",
    "network.mlp": "64",
    "network.depth": "1",
    "data.sums.digits": "2",
    "data.sums.validated": "40",
    "data.sums.tested": "60",
    "train.epochs": "2",
    "train.steps_per_epoch": "15",
    "train.warmup_steps": "10",
    "train.accelerator": "cpu",
    "train.workers": "0",
}


@pytest.fixture(scope="module")
def told() -> list[str]:
    return []


@pytest.fixture(scope="module")
def run(told: list[str], tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A training of a few steps, without any data."""
    folder = tmp_path_factory.mktemp("runs") / "sums"
    result = train_recipe("sequences", overrides=SMALL, out=folder, tell=told.append)
    assert result.usage == f'in Python: abbe.api.translate(texts, "{folder}")'
    assert result.fit.history["loss"].iloc[-1] < result.fit.history["loss"].iloc[0]
    assert {"exact_match", "token_accuracy", "exact_match_0"} <= set(result.fit.history)
    return folder


def test_a_training_needs_no_data_and_leaves_curves_and_a_model(run: Path, told: list[str]) -> None:
    assert told == ["training on sums of up to 2 digits, validating on 40 that are held out"]
    assert {"curves.png", "curves.csv", "recipe.toml", "model.safetensors"} <= {path.name for path in run.iterdir()}
    description = read_description(run / "model.safetensors")
    assert description.config["vocabulary"] == VOCABULARY
    assert (description.options["alphabet"], description.options["longest"]) == (CHARACTERS, 6)
    assert set(description.metrics["validation"]) >= {"exact_match", "token_accuracy"}


def test_the_model_is_measured_on_sums_that_neither_training_nor_validation_had(run: Path, tmp_path: Path) -> None:
    result = evaluate(run)
    names = {pair.name for pair in held_out_sums(SumsConfig(2, tested=60), "test")}
    assert set(result.images["source"]) == names
    assert result.scores["exact_match"] == pytest.approx(result.images["right"].mean())
    low, high = result.intervals["exact_match"]
    assert low <= result.scores["exact_match"] <= high
    assert result.images["right"].is_monotonic_increasing  # worst first
    truth = [sum(map(int, source.split("+"))) for source in result.images["source"]]
    assert result.images["target"].astype(int).tolist() == truth
    result.save(tmp_path)
    assert (tmp_path / "scores.json").is_file()


def test_texts_are_translated_one_by_one_as_together(run: Path) -> None:
    texts = [f"{i}+{7 * i % 90}" for i in range(30)]
    together = translate(texts, run)
    assert together == [translate([text], abbe.load(run))[0] for text in texts]
    assert all(set(text) <= set(CHARACTERS + "?") for text in together)
    assert translate([], run) == []


def test_translation_leaves_the_method_as_it_was(run: Path) -> None:
    model = load_model(run)
    pairs = held_out_sums(SumsConfig(2, validated=5), "validation")
    method = model.method.train()  # type: ignore[attr-defined]
    found = list(translated(method, pairs))
    assert method.training
    assert [to_text(tokens) for tokens in found] == translate([pair.name for pair in pairs], model)
    assert SequenceValidation(pairs)(method)["exact_match"] <= 1


def test_the_same_seed_gives_the_same_model(run: Path, tmp_path: Path) -> None:
    again = train_recipe("sequences", overrides=SMALL, out=tmp_path / "again").run
    one, other = (load_model(folder).method.state_dict() for folder in (run, again))  # type: ignore[attr-defined]
    assert all(torch.equal(one[name], other[name]) for name in one)


def test_the_length_follows_the_sums_unless_it_is_given() -> None:
    recipe = load_recipe("sequences", {"data.sums.digits": "5"})
    settle_sequences(recipe, sums_of(recipe))
    assert recipe.options["longest"] == 12
    recipe = load_recipe("sequences", {"options.longest": "20"})
    settle_sequences(recipe, sums_of(recipe))
    assert recipe.options["longest"] == 20


def test_mistakes_are_told_in_a_sentence(run: Path, tmp_path: Path) -> None:
    with pytest.raises(AbbeError, match="makes its sums itself and reads no files; leave out --data"):
        train_recipe("sequences", [tmp_path], out=tmp_path / "run")
    with pytest.raises(AbbeError, match="no setting named 'digit'; did you mean 'digits'"):
        train_recipe("sequences", overrides={"data.sums.digit": "3"}, out=tmp_path / "run")
    with pytest.raises(AbbeError, match="for masked tokens"):
        train_recipe("sequences", overrides={"method": "roformer_tiny"}, out=tmp_path / "run")
    with pytest.raises(AbbeError, match="makes the sums to test with itself; leave it out"):
        evaluate(run, tmp_path)
    with pytest.raises(AbbeError, match="say where they are with --data FOLDER"):
        evaluate("nuclei")
    with pytest.raises(AbbeError, match=r"'1-2': no tokens for -"):
        translate(["1-2"], run)
    with pytest.raises(AbbeError, match=r"'123456\+1': 8 tokens; expected fewer than options.longest, 6"):
        translate(["123456+1"], run)
    with pytest.raises(AbbeError, match="is for images and translates nothing"):
        translate(["1+2"], "nuclei")
    image = np.zeros((32, 32), np.uint8)
    with pytest.raises(AbbeError, match="reads sequences and no images"):
        abbe.segment(image, run)
    with pytest.raises(AbbeError, match="reads sequences and no images"):
        abbe.classify(image, run)
