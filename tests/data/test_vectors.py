"""Files of vectors: each format holds the same."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from abbe.data import vectors
from abbe.data.vectors import append_rows, blocks, choose_format, join_rows, open_rows, write_vectors
from abbe.errors import AbbeError


def rows_of(number: int, dimensions: int, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).normal(size=(number, dimensions)).astype(np.float32)


def index_of(number: int) -> pd.DataFrame:
    return pd.DataFrame({"image": [f"bild {n}, ä" for n in range(number)], "label": np.arange(number) * 3})


def joined(folder: Path, rows: np.ndarray, pieces: int = 2) -> Path:
    files = []
    for place, part in enumerate(np.array_split(rows, pieces)):
        files.append(folder / f"{place}.f32")
        assert append_rows(files[-1], [part[:1], part[1:]]) == len(part)
    join_rows(folder / "joined.npy", files, len(rows), rows.shape[1])
    return folder / "joined.npy"


@settings(deadline=None, max_examples=20)
@given(st.integers(0, 20), st.integers(1, 5), st.integers(1, 4), st.integers(1, 30))
def test_pieces_become_one_file(tmp_path_factory: pytest.TempPathFactory, number: int, wide: int, pieces: int, at: int):
    folder, rows = tmp_path_factory.mktemp("vectors"), rows_of(number, wide)
    path = joined(folder, rows, pieces)
    np.testing.assert_array_equal(np.load(path), rows)
    before, vectors.AT_ONCE = vectors.AT_ONCE, at
    try:
        found = list(blocks(open_rows(path)))
    finally:
        vectors.AT_ONCE = before
    np.testing.assert_array_equal(np.concatenate([np.zeros((0, wide)), *(block for _, block in found)]), rows)
    assert [start for start, _ in found] == list(np.cumsum([0, *(len(block) for _, block in found)])[:-1])


@pytest.mark.parametrize("number", [0, 1, 11])
def test_formats_hold_the_same(number: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(vectors, "AT_ONCE", 12)  # four rows
    rows, index = rows_of(number, 3), index_of(number)
    path = joined(tmp_path, rows)
    assert write_vectors(tmp_path, "npy", index, path) == tmp_path / "vectors.npy"
    np.testing.assert_array_equal(np.load(tmp_path / "vectors.npy"), rows)
    assert pd.read_csv(tmp_path / "vectors.csv").to_numpy().tolist() == index.to_numpy().tolist()
    assert write_vectors(tmp_path, "csv", index, path) == tmp_path / "vectors.csv"
    assert not (tmp_path / "vectors.npy").exists()
    table = pd.read_csv(tmp_path / "vectors.csv")
    assert list(table) == ["image", "label", "v0", "v1", "v2"]
    np.testing.assert_allclose(table[["v0", "v1", "v2"]].to_numpy(float), rows, rtol=1e-6)
    pytest.importorskip("pyarrow")
    assert write_vectors(tmp_path, "parquet", index, path) == tmp_path / "vectors.parquet"
    assert not (tmp_path / "vectors.csv").exists()
    found = pd.read_parquet(tmp_path / "vectors.parquet")
    assert list(found) == list(table)
    assert found["image"].tolist() == index["image"].tolist()
    np.testing.assert_array_equal(found[["v0", "v1", "v2"]].to_numpy(np.float32), rows)
    assert found["v0"].dtype == np.float32


def test_pieces_that_are_not_whole_are_told(tmp_path: Path) -> None:
    append_rows(tmp_path / "a.f32", [rows_of(2, 3)])
    for rows, files in ((3, ["a"]), (2, ["a", "a"]), (2, ["gone"])):
        with pytest.raises(AbbeError, match="not whole; do them again with --overwrite"):
            join_rows(tmp_path / "b.npy", [tmp_path / f"{name}.f32" for name in files], rows, 3)
        assert not (tmp_path / "b.npy").exists()


def test_parquet_is_written_where_it_can_be(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    assert (choose_format("auto"), choose_format("csv")) == ("npy", "csv")
    with pytest.raises(AbbeError, match=r"without pyarrow; pip install 'abbe\[embed\]', or take --format npy"):
        choose_format("parquet")
    monkeypatch.setattr("importlib.util.find_spec", lambda name: name)
    assert choose_format("auto") == "parquet"
