"""Models are found by name, by file and by the folder of a training."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from abbe.errors import AbbeError
from abbe.weights.file import read_description
from abbe.weights.records import RECORDS, find_model, read_card


def test_files_and_folders_of_trainings_are_found(tmp_path: Path) -> None:
    model = tmp_path / "run" / "model.safetensors"
    model.parent.mkdir()
    model.touch()
    assert find_model(model) == find_model(str(model)) == find_model(model.parent) == model


def test_an_unknown_name_gets_the_nearest(tmp_path: Path) -> None:
    with pytest.raises(AbbeError, match="^nucleii: neither a file nor a model that Abbe knows; did you mean 'nuclei'"):
        find_model("nucleii")
    with pytest.raises(AbbeError, match="bundled: nuclei"):
        find_model(tmp_path / "xyz")


@pytest.mark.parametrize("name", RECORDS)
def test_bundled_models_are_small_and_have_a_card(name: str) -> None:
    path = find_model(name)
    assert path.stat().st_size <= 8 * 2**20
    assert read_description(path).name == name
    assert read_card(name).startswith("#")


@pytest.mark.parametrize("name", RECORDS)
def test_cards_tell_the_licences_of_all_data(name: str) -> None:
    for licence in re.findall(r"\((.+?)\)", RECORDS[name].licence):
        assert licence in read_card(name)
