from __future__ import annotations

import json
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path

import numpy as np
import pytest

from abbe import __version__
from abbe.report.provenance import jsonable, provenance, write_provenance


@dataclass
class Options:
    out: Path
    tile: int | None = None
    threshold: float = 0.5


def test_record_survives_json(tmp_path: Path) -> None:
    record = provenance(
        ["abbe", "segment", "a b.tif"],
        model={"name": "nuclei", "sha256": "ab" * 32, "licence": "BSD-3-Clause", "config": {"width": 32}},
        seed=7,
        settings=Options(tmp_path),
        inputs=["plate/a b.tif"],
        started=datetime.now(UTC) - timedelta(seconds=5),
    )
    write_provenance(tmp_path / "provenance.json", record)
    read = json.loads((tmp_path / "provenance.json").read_text(encoding="utf-8"))
    assert read == record
    assert read["command"] == "abbe segment 'a b.tif'"
    assert read["abbe"] == __version__
    assert read["model"] == {"name": "nuclei", "sha256": "ab" * 32, "licence": "BSD-3-Clause"}
    assert read["seed"] == 7
    assert 5 <= read["seconds"] < 100
    assert read["started"].endswith("+00:00")
    assert read["software"]["numpy"] == np.__version__
    assert read["hardware"]["processor"]


def test_nobody_is_named_outside_the_command(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Path, "home", lambda: Path("/home/ernst"))
    record = provenance(
        ["abbe", "segment", "/home/ernst/a.tif"],
        model={"name": "mine", "data": "/home/ernst/train"},
        settings={"out": Path("/home/ernst/out"), "nested": [{"rois": "/home/ernst/r.zip"}]},
        inputs=["/home/ernst/a.tif", "/data/carl/b.tif"],
    )
    assert record.pop("command") == "abbe segment /home/ernst/a.tif"
    assert "ernst" not in json.dumps(record)
    assert "carl" not in json.dumps(record)
    assert record["settings"]["out"] == "~/out"
    assert record["inputs"]["names"] == ["a.tif", "b.tif"]


def test_a_home_at_the_root_changes_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Path, "home", lambda: Path("/"))
    assert provenance([], settings={"out": "/a/b"})["settings"]["out"] == "/a/b"


def test_thousands_of_inputs_are_counted_not_listed() -> None:
    inputs = provenance([], inputs=[f"{i}.tif" for i in range(5000)])["inputs"]
    assert inputs["number"] == 5000
    assert len(inputs["names"]) == 50


def test_what_json_does_not_know_is_told_plainly() -> None:
    value = {1: np.float32(0.5), "a": (np.int64(3), float("nan")), "b": np.arange(2), "c": Path("x"), "d": True}
    assert jsonable(value) == {"1": 0.5, "a": [3, None], "b": [0, 1], "c": "x", "d": True}
