"""Names of classes from files of all kinds."""

from __future__ import annotations

import csv
import io
import json
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from abbe.data.class_names import made_different, read_class_names
from abbe.errors import AbbeError

NAMES = st.lists(
    st.text(st.characters(codec="utf-8", exclude_categories=["C", "Z"]), min_size=1, max_size=8),
    min_size=1,
    max_size=12,
    unique=True,
)


def written(form: str, names: list[str]) -> str:
    numbered = dict(enumerate(names))
    if form == "lines.txt":
        return "\n".join(names) + "\n\n"
    if form == "list.json":
        return json.dumps(names)
    if form == "numbers.json":
        return json.dumps({str(place): numbered[place] for place in reversed(numbered)})
    if form == "keras.json":
        return json.dumps({str(place): [f"n{place:08d}", name] for place, name in numbered.items()})
    if form == "config.json":
        return json.dumps({"model_type": "vit", "id2label": numbered, "image_size": 224})
    table = io.StringIO()
    rows = csv.writer(table, delimiter="\t" if form.endswith("tsv") else ",")
    rows.writerow(["index", "synset", "Class"])
    rows.writerows([place, "x", numbered[place]] for place in reversed(numbered))
    return table.getvalue()


@pytest.mark.parametrize(
    "form", ["lines.txt", "list.json", "numbers.json", "keras.json", "config.json", "table.csv", "table.tsv"]
)
@settings(deadline=None, max_examples=20, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(names=NAMES)
def test_names_come_in_the_order_of_the_outputs(form: str, names: list[str], tmp_path: Path) -> None:
    path = tmp_path / form
    path.write_text(written(form, names), encoding="utf-8")
    assert read_class_names(path) == names


def test_a_name_that_comes_twice_gets_its_number() -> None:
    """Two of ImageNet's classes are called crane: the bird and the machine."""
    assert made_different(["crane", "ship", "crane"]) == ["crane (0)", "ship", "crane (2)"]


@pytest.mark.parametrize(
    ("name", "text", "told"),
    [
        ("a.txt", "\n\n", "holds no names of classes; expected a name on each line"),
        ("a.txt", "cat\n\ndog\n", "class 1 has no name"),
        ("a.json", "{", "not JSON"),
        ("a.json", "[1, 2]", "holds no names of classes"),
        ("a.json", '{"cat": 0}', "'cat' is not the number of a class"),
        ("a.json", '{"1": "cat", "2": "dog"}', "2 numbers of classes that are not 0 to 1"),
        ("a.csv", "species\ncat\n", "has the columns species; expected class"),
        ("a.csv", "index,class\n0,cat\n0,dog\n", "2 numbers of classes that are not 0 to 1"),
    ],
)
def test_what_is_no_list_of_names_is_told(name: str, text: str, told: str, tmp_path: Path) -> None:
    (tmp_path / name).write_text(text, encoding="utf-8")
    with pytest.raises(AbbeError, match=told):
        read_class_names(tmp_path / name)
    with pytest.raises(AbbeError, match="cannot be read as names of classes"):
        read_class_names(tmp_path / "missing.txt")
