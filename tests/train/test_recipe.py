"""Recipes survive writing and reading, and say what is wrong with a key or a value."""

from __future__ import annotations

import dataclasses
import math
import tomllib
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from abbe.errors import AbbeError
from abbe.train import recipe as recipe_module
from abbe.train.recipe import (
    DataConfig,
    Recipe,
    TrainConfig,
    dump_recipe,
    list_recipes,
    load_recipe,
    parse_recipe,
)
from abbe.train.settings import to_toml

text = st.text(st.characters(exclude_categories=["Cs"]), max_size=12)
number = st.one_of(st.integers(-(2**63), 2**63 - 1), st.floats(allow_nan=False))
value = st.recursive(
    st.one_of(st.booleans(), number, text),
    lambda inner: st.one_of(st.lists(inner, max_size=3), st.dictionaries(text, inner, max_size=3)),
    max_leaves=6,
)
table = st.dictionaries(text, value, max_size=4)
line = st.text("abc :=#é1", max_size=12).map(lambda words: " ".join(words.split()).strip(" #"))


@settings(deadline=None, max_examples=40)
@given(table)
def test_toml_reads_back_equal(values: dict[str, Any]) -> None:
    assert tomllib.loads(to_toml(values)) == values


def test_toml_keeps_infinity_and_nan_and_drops_none() -> None:
    read = tomllib.loads(to_toml({"a": math.inf, "b": math.nan, "c": None}))
    assert read["a"] == math.inf
    assert math.isnan(read["b"])
    assert "c" not in read


@settings(deadline=None, max_examples=40)
@given(
    st.builds(
        Recipe,
        name=text,
        method=text,
        objective=st.none() | text,
        network=table,
        options=table,
        data=st.builds(DataConfig, paths=st.lists(text, max_size=3), augment=table),
        train=st.builds(TrainConfig, learning_rate=st.floats(1e-6, 1.0), seed=st.integers(0, 9)),
        command=line,
        cost=line,
        result=line,
    )
)
def test_recipe_reads_back_equal(recipe: Recipe) -> None:
    assert parse_recipe(dump_recipe(recipe)) == recipe


def test_every_setting_is_explained_where_it_is_defined() -> None:
    source = Path(recipe_module.__file__).read_text(encoding="utf-8").splitlines()
    for config in (TrainConfig, DataConfig, Recipe):
        for field in dataclasses.fields(config):
            where = next(i for i, row in enumerate(source) if row.startswith(f"    {field.name}: "))
            assert source[where + 1].strip().startswith('"""'), field.name


@pytest.mark.parametrize(
    ("key", "written", "read"),
    [
        ("train.learning_rate", "1e-3", 0.001),
        ("train.learning_rate", 1, 1.0),
        ("train.epochs", "12", 12),
        ("train.deterministic", "yes", True),
        ("train.deterministic", "false", False),
        ("train.optimizer", "sgd", "sgd"),
        ("data.paths", "a,b", ["a", "b"]),
        ("data.paths", "['a, b']", ["a, b"]),
        ("data.paths", "one folder", ["one folder"]),
        ("data.weights", "1, 2.5", [1.0, 2.5]),
        ("objective", "none", None),
        ("objective", "instances", "instances"),
        ("start_from", "3", "3"),
        ("network.channels", "32", 32),
        ("network.norm", "batch", "batch"),
        ("network.depths", "[1, 2]", [1, 2]),
        ("data.augment.flip", "false", False),
        ("data.normalization.low", "0.5", 0.5),
    ],
)
def test_override_takes_the_type_of_its_field(key: str, written: Any, read: Any) -> None:
    found: Any = parse_recipe("", {key: written})
    for name in key.split("."):
        found = found[name] if isinstance(found, dict) else getattr(found, name)
    assert found == read
    assert type(found) is type(read)


@pytest.mark.parametrize(
    ("key", "written", "message"),
    [
        ("train.learning_rat", 1, r"no setting named 'learning_rat'; did you mean 'learning_rate'\?"),
        ("trian.epochs", 1, r"no setting named 'trian'; did you mean 'train'\?"),
        ("train.zzz", 1, "known: accelerator, batch_size"),
        ("train.epochs", "ten", r"recipe\.train\.epochs: expected int, found 'ten'"),
        ("train.epochs", "2.5", "expected int"),
        ("train.epochs", True, "expected int"),
        ("train.deterministic", "maybe", "expected bool, found 'maybe'"),
        ("train.optimizer", "adan", "expected one of adamw, adam, sgd, found 'adan'"),
        ("data.weights", "1,b", "expected list"),
        ("name.first", "a", "single value"),
        ("network", "3", "expected dict"),
        ("train.batch_size", 0, "train.batch_size: expected at least 1, found 0"),
        ("train.minutes", float("nan"), "train.minutes: expected at least 0, found nan"),
        ("train.devices", 3, "8 samples cannot be shared equally by 3 devices; choose a multiple of 3, such as 9"),
        ("train.ema_decay", 1, "expected 0 .* below 1, found 1"),
    ],
)
def test_wrong_override_is_named(key: str, written: Any, message: str) -> None:
    with pytest.raises(AbbeError, match=message):
        parse_recipe("name = 'n'", {key: written})


def test_recipe_from_a_path_takes_its_name_and_comments(tmp_path: Path) -> None:
    path = tmp_path / "my cells.toml"
    path.write_text("# Cells\n# command: abbe train x\n# cost: 1 h\n\n# result: not at the top\nmethod = 'unet'\n")
    recipe = load_recipe(path, {"train.seed": "3"})
    assert (recipe.name, recipe.method, recipe.train.seed) == ("my cells", "unet", 3)
    assert (recipe.title, recipe.command, recipe.cost, recipe.result) == ("Cells", "abbe train x", "1 h", "")


def test_unreadable_recipes_are_named(tmp_path: Path) -> None:
    (tmp_path / "bad.toml").write_text("a = = 3")
    (tmp_path / "binary.toml").write_bytes(b"\xff\xfe\x00")
    with pytest.raises(AbbeError, match=r"bad\.toml: not a TOML file"):
        load_recipe(tmp_path / "bad.toml")
    with pytest.raises(AbbeError, match=r"binary\.toml: cannot be read"):
        load_recipe(tmp_path / "binary.toml")
    with pytest.raises(AbbeError, match=r"missing\.toml: cannot be read"):
        load_recipe(tmp_path / "missing.toml")


def test_packaged_recipes_by_name(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "nuclei.toml").write_text("# Nuclei\n# cost: little\nmethod = 'unet'\n")
    (tmp_path / "__init__.py").touch()
    monkeypatch.setattr(recipe_module.resources, "files", lambda _: tmp_path)
    assert load_recipe("nuclei").title == "Nuclei"
    assert [(summary.name, summary.cost) for summary in list_recipes()] == [("nuclei", "little")]
    with pytest.raises(AbbeError, match=r"no recipe named 'nuclie'; did you mean 'nuclei'\?"):
        load_recipe("nuclie")


def test_every_packaged_recipe_loads() -> None:
    for summary in list_recipes():
        assert load_recipe(summary.name).method
        assert summary.title
        assert summary.command


def test_crops_are_sides_or_extents() -> None:
    assert TrainConfig(crop=64).crop_extents(2) == (64, 64)
    assert TrainConfig(crop=64).crop_extents(3) == (64, 64, 64)
    for text, crop in (("96", 96), ("16,64,64", (16, 64, 64)), ("[16, 64, 64]", (16, 64, 64))):
        recipe = parse_recipe("", {"train.crop": text})
        assert recipe.train.crop == crop
        assert parse_recipe(dump_recipe(recipe)) == recipe
    assert TrainConfig(crop=(16, 64, 32)).crop_extents(3) == (16, 64, 32)
    with pytest.raises(AbbeError, match="train.crop: 3 extents"):
        TrainConfig(crop=(16, 64, 32)).crop_extents(2)
    for crop in ((16, 0, 4), ()):
        with pytest.raises(AbbeError, match="train.crop: expected at least 1"):
            TrainConfig(crop=crop)
