"""The table and the figure of a run."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from PIL import Image

from abbe.train.curves import MOST_METRICS, draw_curves, write_curves


def history(epochs: int = 6) -> pd.DataFrame:
    n = np.arange(1, epochs + 1)
    f1 = np.where(n % 2 == 0, 0.5 + 0.1 * np.sin(n), np.nan)
    return pd.DataFrame({"epoch": n, "step": n * 10, "learning_rate": 0.1, "loss": 1 / n, "f1": f1, "seconds": 1.0})


def test_table_and_picture_are_written_whole(tmp_path: Path) -> None:
    write_curves(history(), tmp_path, "f1")
    pd.testing.assert_frame_equal(pd.read_csv(tmp_path / "curves.csv"), history(), check_dtype=False)
    with Image.open(tmp_path / "curves.png") as picture:
        assert min(picture.size) > 300
    assert {path.name for path in tmp_path.iterdir()} == {"curves.csv", "curves.png"}


@pytest.mark.parametrize(("mode", "chosen"), [("max", np.nanargmax), ("min", np.nanargmin)])
def test_best_epoch_is_marked(mode: str, chosen: object) -> None:
    table = history(9)
    right = draw_curves(table, "f1", mode).axes[1]  # type: ignore[arg-type]
    (star,) = [curve for curve in right.lines if curve.get_marker() == "*"]
    assert star.get_xdata()[0] == table["epoch"][chosen(table["f1"])]  # type: ignore[operator, index]


@pytest.mark.parametrize("watch", ["f1", "absent"])
def test_any_history_can_be_drawn(watch: str) -> None:
    many = history(1).assign(**{f"m{i}": 0.1 * i for i in range(20)}, f1=np.nan)
    assert len(draw_curves(many, watch).axes[1].lines) == MOST_METRICS
    draw_curves(history().drop(columns="f1"), watch)
    draw_curves(pd.DataFrame({"epoch": [1], "up/loss": [-0.1]}), "epoch")
