from __future__ import annotations

import base64
import io
from collections.abc import Mapping
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from PIL import Image

from abbe.report.gallery import MAX_BYTES, MAX_SIDE, choose_gallery, data_uri
from abbe.report.images import IMAGE_COLUMNS, UNKNOWN_PIXEL_SIZE


def table(n: int, **changes: Mapping[int, object]) -> pd.DataFrame:
    generator = np.random.default_rng(0)
    frame = pd.DataFrame({column: np.zeros(n) for column in IMAGE_COLUMNS})
    frame["image"] = [f"{index:03}.tif" for index in range(n)]
    frame["count"] = generator.normal(200, 10, n).round()
    frame["median_area"] = generator.normal(300, 10, n)
    frame["foreground"] = generator.normal(0.3, 0.01, n)
    frame["mean_intensity"] = generator.normal(500, 10, n)
    frame["warnings"] = [""] * n
    for column, values in changes.items():
        for row, value in values.items():
            frame.loc[row, column] = value
    return frame


def test_warned_and_outlying_images_come_first() -> None:
    images = table(100, warnings={40: "no objects found; very low contrast", 7: "very low contrast"}, count={77: 2})
    chosen = choose_gallery(images)
    assert [choice.name for choice in chosen if choice.kind == "worst"] == ["040.tif", "007.tif", "077.tif"]
    assert chosen[2].reason == "unusually low count"
    assert len(chosen) == 12
    assert {choice.kind for choice in chosen[3:]} == {"typical"}


def test_what_all_images_share_singles_none_out() -> None:
    same = dict.fromkeys(range(10), f"{UNKNOWN_PIXEL_SIZE}; strange file")
    assert {choice.kind for choice in choose_gallery(table(10, warnings=same))} == {"typical"}


def test_at_most_half_is_bad_while_there_are_typical_ones() -> None:
    bad = choose_gallery(table(100, warnings={row: f"odd {row}" for row in range(50)}))
    assert [choice.kind for choice in bad] == ["worst"] * 6 + ["typical"] * 6
    all_bad = choose_gallery(table(20, warnings={row: f"odd {row}" for row in range(20)}))
    assert [choice.kind for choice in all_bad] == ["worst"] * 12


@pytest.mark.parametrize("n", [0, 1, 3, 12])
def test_few_images_are_all_shown(n: int) -> None:
    names = [choice.name for choice in choose_gallery(table(n))]
    assert sorted(names) == [f"{index:03}.tif" for index in range(n)]


def test_unknown_numbers_make_no_outlier() -> None:
    images = table(10, median_area={3: np.nan}, mean_intensity={4: np.nan})
    assert {choice.kind for choice in choose_gallery(images)} == {"typical"}


@pytest.mark.parametrize("shape", [(2048, 2048), (1, 1), (3, 2000), (200, 300)])
def test_pictures_are_small_enough_for_a_page(shape: tuple[int, int], tmp_path: Path) -> None:
    picture = np.random.default_rng(0).integers(0, 256, (*shape, 3), dtype=np.uint8)
    address, _, _ = data_uri(picture)
    encoded = base64.b64decode(address.removeprefix("data:image/jpeg;base64,"))
    assert len(encoded) <= MAX_BYTES
    assert max(Image.open(io.BytesIO(encoded)).size) <= MAX_SIDE
    Image.fromarray(picture).save(tmp_path / "a.png")
    assert data_uri(tmp_path / "a.png")[0] == address
