"""Scores are those of the objects that a user would get."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import tifffile

from abbe.data.volumes import NucleiVolume, count_for, write_volumes
from abbe.errors import AbbeError
from abbe.evaluation import evaluate_model
from abbe.metrics.instances import match, scores
from abbe.model import Model, load_model
from abbe.settings import SegmentSettings


def test_a_perfect_model_scores_one(bright: Model, plain: SegmentSettings, annotated: Path, tmp_path: Path) -> None:
    found = evaluate_model(bright, annotated, settings=plain)
    assert len(found.images) == 2  # the test split
    assert found.scores["ap50"] == found.scores["map50_90"] == 1
    assert found.scores["count_error"] == 0
    assert found.intervals["ap50"] == (1, 1)
    found.save(tmp_path / "scores")
    numbers = json.loads((tmp_path / "scores" / "scores.json").read_text(encoding="utf-8"))
    assert numbers["scores"]["ap50"] == 1
    assert len(pd.read_csv(tmp_path / "scores" / "images.csv")) == 2


def test_scores_are_counted_over_all_objects_and_the_worst_image_comes_first(
    bright: Model, plain: SegmentSettings, tmp_path: Path, discs: Callable[..., tuple[np.ndarray, np.ndarray]]
) -> None:
    matches = []
    for i, (number, missing) in enumerate([(4, 0), (9, 3)]):
        image, labels = discs(number=number, seed=i, dtype="uint8")
        wrong = np.where(labels > missing, labels, 0)  # the annotator forgot some
        tifffile.imwrite(tmp_path / f"{i}.tif", image)
        tifffile.imwrite(tmp_path / f"{i}_mask.tif", wrong.astype(np.uint8))
        matches.append(match(wrong, labels))
    found = evaluate_model(bright, tmp_path, settings=plain)
    assert found.scores == pytest.approx(scores(matches))
    assert found.images["image"].tolist() == ["1", "0"]
    low, high = found.intervals["ap50"]
    assert low <= found.scores["ap50"] <= high


def test_a_split_that_is_not_there_is_told(bright: Model, annotated: Path, tmp_path: Path) -> None:
    assert len(evaluate_model(bright, annotated, "val").images) == 2
    with pytest.raises(AbbeError, match="has no split 'tset'; it has .*test"):
        evaluate_model(bright, annotated, "tset")
    with pytest.raises(AbbeError, match="no such folder"):
        evaluate_model(bright, tmp_path / "missing")


def test_the_bundled_model_of_stacks_finds_simulated_nuclei(tmp_path: Path) -> None:
    """A stack that it has not seen, with planes twice as far apart as it works at."""
    config = replace(
        NucleiVolume(clumping=0.6, seed=99),
        shape=(12, 96, 96),
        voxel=(2.0, 0.5, 0.5),
        count=count_for(0.25, 8.0, (24, 48, 48)),
    )
    write_volumes(tmp_path, {"a": config})
    found = evaluate_model(load_model("nuclei_3d"), tmp_path, settings=SegmentSettings(device="cpu"))
    assert found.images["annotated"][0] > 15
    assert found.scores["ap50"] > 0.75
    assert found.scores["count_error"] < 0.15
