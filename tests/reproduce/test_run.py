"""Trying a claim: what is written, what is told, and what is refused."""

from __future__ import annotations

import json
import sys
from collections.abc import Callable
from importlib.util import find_spec
from pathlib import Path
from types import ModuleType

import pandas as pd
import pytest
import torch
from matplotlib.figure import Figure

from abbe import __version__
from abbe.cli.main import main
from abbe.errors import AbbeError
from abbe.methods.catalog import ENTRIES
from abbe.reproduce.claims import CLAIMS, Claim, ClaimSettings, Found
from abbe.reproduce.pace import Pace
from abbe.reproduce.run import reproduce


def one_draw(settings: ClaimSettings, tell: Callable[[str], None]) -> Found:
    """Claims that a number drawn at random is above one half."""
    number = float(torch.rand(()))
    tell("drawn")
    figure = Figure(figsize=(2, 2))
    figure.subplots().plot([0, number])
    return Found(number > 0.5, f"it is {number}", pd.DataFrame({"number": [number]}), figure)


@pytest.fixture
def coin(monkeypatch: pytest.MonkeyPatch) -> str:
    """The name of a claim that takes no time and no data."""
    file = ModuleType("a_coin")
    file.run = one_draw
    monkeypatch.setitem(sys.modules, "a_coin", file)
    monkeypatch.setitem(CLAIMS, "coin", Claim("coin", "a_coin", "Heads.", "doi:10.1000/182", 0.1))
    return "coin"


@pytest.mark.parametrize("name", list(CLAIMS))
def test_a_claim_has_its_file_and_a_paper_of_the_catalog(name: str):
    claim = CLAIMS[name]
    assert claim.name == name
    assert find_spec(claim.module) is not None
    assert claim.paper in {entry.paper for entry in ENTRIES.values()}


def ended(*words: object) -> int:
    with pytest.raises(SystemExit) as end:
        main([str(word) for word in words])
    return int(end.value.code or 0)


def test_figure_table_and_record_are_written(coin: str, tmp_path: Path):
    told: list[str] = []
    found = reproduce(coin, tmp_path / "a" / "b", ClaimSettings(seed=3), told.append)
    folder = tmp_path / "a" / "b"
    assert {path.name for path in folder.iterdir()} == {"figure.png", "table.csv", "claim.json"}
    assert (folder / "figure.png").read_bytes().startswith(b"\x89PNG")
    assert pd.read_csv(folder / "table.csv").number[0] == pytest.approx(found.table.number[0])
    record = json.loads((folder / "claim.json").read_text(encoding="utf-8"))
    expected = {"claim": "coin", "paper": "doi:10.1000/182", "seed": 3, "data": None}
    assert {key: record[key] for key in expected} == expected
    assert (record["holds"], record["sentence"]) == (found.holds, found.sentence)
    assert record["versions"]["abbe"] == __version__
    assert record["versions"]["torch"]
    assert record["seconds"] >= 0
    assert told == ["drawn"]


def test_a_second_run_replaces_the_first(coin: str, tmp_path: Path):
    sentences = []
    for seed in (0, 1, 0):
        reproduce(coin, tmp_path, ClaimSettings(seed=seed))
        sentences.append(json.loads((tmp_path / "claim.json").read_text(encoding="utf-8"))["sentence"])
    assert sentences[0] == sentences[2] != sentences[1]


def test_randomness_elsewhere_goes_on_as_if_nothing_had_run(coin: str, tmp_path: Path):
    torch.manual_seed(7)
    wanted = torch.rand(3)
    torch.manual_seed(7)
    reproduce(coin, tmp_path)
    assert torch.equal(torch.rand(3), wanted)


def test_results_are_in_a_folder_of_the_claim_unless_told_otherwise(
    coin: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.chdir(tmp_path)
    assert ended("reproduce", coin) == 0
    assert (tmp_path / "claims" / "coin" / "figure.png").exists()


def test_a_claim_that_does_not_hold_is_told_and_is_no_error(
    coin: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
):
    seen = set()
    for seed in range(6):
        assert ended("reproduce", coin, "--out", tmp_path, "--seed", seed) == 0
        said = capsys.readouterr().out
        holds = json.loads((tmp_path / "claim.json").read_text(encoding="utf-8"))["holds"]
        assert ("the claim holds" in said) == holds == ("does not hold" not in said)
        assert str(tmp_path / "figure.png") in said
        seen.add(holds)
    assert seen == {True, False}


def test_without_a_name_the_claims_are_listed(capsys: pytest.CaptureFixture[str]):
    assert ended("reproduce") == 0
    said = capsys.readouterr().out
    assert all(claim.title in said and claim.paper in said for claim in CLAIMS.values())


def test_a_wrong_name_is_told_with_the_right_ones(capsys: pytest.CaptureFixture[str]):
    assert ended("reproduce", "resmet") == 2
    said = capsys.readouterr().err
    assert all(name in said for name in CLAIMS)
    assert "did you mean 'resnet'" in said


def test_data_that_are_missing_or_not_wanted_are_refused_before_anything_runs(coin: str, tmp_path: Path):
    with pytest.raises(AbbeError, match="takes no data"):
        reproduce(coin, tmp_path / "out", ClaimSettings(data=tmp_path))
    with pytest.raises(AbbeError, match="no such folder; expected a folder of images"):
        reproduce("resnet", tmp_path / "out", ClaimSettings(data=tmp_path / "nowhere"))
    assert not (tmp_path / "out").exists()


def test_a_folder_that_cannot_be_written_is_told(coin: str, tmp_path: Path):
    (tmp_path / "file").write_text("")
    with pytest.raises(AbbeError, match="cannot be written"):
        reproduce(coin, tmp_path / "file")


@pytest.mark.parametrize("seconds", [0.0, 60.0])
def test_the_last_step_is_always_told(seconds: float):
    told: list[str] = []
    pace = Pace(3, told.append, seconds)
    for step in range(3):
        pace.step(f"error {step}")
    assert len(told) == (3 if seconds == 0 else 1)
    assert told[-1].startswith("error 2; 100%")
