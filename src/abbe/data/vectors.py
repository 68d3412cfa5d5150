"""Files of vectors: one row for each picture, written piece by piece and read where they are needed."""

from __future__ import annotations

import importlib.util
import shutil
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import Literal

import numpy as np
import pandas as pd

from abbe.data.write import atomic, write_table
from abbe.errors import AbbeError

VectorFormat = Literal["auto", "parquet", "npy", "csv"]
AT_ONCE = 2**24
"""Numbers that are held while a file is written."""
BYTES = np.dtype(np.float32).itemsize


def choose_format(asked: VectorFormat) -> VectorFormat:
    """Resolve "auto" to Parquet where it can be written, else to NPY."""
    here = importlib.util.find_spec("pyarrow") is not None
    if asked == "parquet" and not here:
        raise AbbeError("Parquet cannot be written without pyarrow; pip install 'abbe[embed]', or take --format npy")
    if asked != "auto":
        return asked
    return "parquet" if here else "npy"


def append_rows(path: Path, batches: Iterable[np.ndarray]) -> int:
    """Write batches (B, D) of float32 one behind the other as bare numbers; gives how many rows there are."""
    rows = 0
    with path.open("wb") as file:
        for batch in batches:
            file.write(np.ascontiguousarray(batch, "<f4").data)
            rows += len(batch)
    return rows


def join_rows(path: Path, pieces: Sequence[Path], rows: int, dimensions: int) -> np.ndarray:
    """Write an NPY (rows, dimensions) of files of :func:`append_rows`, whole or not at all, and map it.

    Raises
    ------
    AbbeError
        When the files do not hold so many numbers.
    """
    with atomic(path) as temporary, temporary.open("wb") as target:
        header = {"descr": "<f4", "fortran_order": False, "shape": (rows, dimensions)}
        np.lib.format.write_array_header_1_0(target, header)
        start = target.tell()
        for piece in filter(Path.exists, pieces):
            with piece.open("rb") as source:
                shutil.copyfileobj(source, target, 2**20)
        if target.tell() - start != rows * dimensions * BYTES:
            raise AbbeError(f"{path}: the vectors of earlier runs are not whole; do them again with --overwrite")
    return open_rows(path)


def open_rows(path: Path) -> np.ndarray:
    """Map an NPY without reading it; one without numbers cannot be mapped and is made."""
    try:
        return np.load(path, mmap_mode="r")
    except ValueError:
        return np.load(path)


def blocks(vectors: np.ndarray) -> Iterator[tuple[int, np.ndarray]]:
    """Read rows some at a time, with the number of the first."""
    step = max(1, AT_ONCE // max(1, vectors.shape[1]))
    for start in range(0, len(vectors), step):
        yield start, np.asarray(vectors[start : start + step])


def vector_columns(dimensions: int) -> list[str]:
    """Name the numbers of a vector: v0, v1 and so on."""
    return [f"v{place}" for place in range(dimensions)]


def write_vectors(folder: Path, kind: VectorFormat, index: pd.DataFrame, joined: Path) -> Path:
    """Write the vectors of a run in one format, and remove those that a run with another one left.

    Parameters
    ----------
    folder
        Gets vectors.parquet; or vectors.npy, with the index in vectors.csv; or all in vectors.csv.
    kind
        One of the formats, not "auto".
    index
        A row for each vector: which picture it is of.
    joined
        What :func:`join_rows` wrote; for NPY it is moved.

    Returns
    -------
    pathlib.Path
        The file that holds the vectors.
    """
    paths = {suffix: folder / f"vectors.{suffix}" for suffix in ("parquet", "npy", "csv")}
    if kind == "parquet":
        _write_parquet(paths["parquet"], index, open_rows(joined))
    elif kind == "csv":
        _write_csv(paths["csv"], index, open_rows(joined))
    else:
        write_table(paths["csv"], index)
        with atomic(paths["npy"]) as temporary:
            shutil.copyfile(joined, temporary)
    kept = {"parquet": ("parquet",), "csv": ("csv",), "npy": ("npy", "csv")}[kind]
    for suffix, path in paths.items():
        if suffix not in kept:
            path.unlink(missing_ok=True)
    return paths[kind]


def _write_parquet(path: Path, index: pd.DataFrame, vectors: np.ndarray) -> None:
    import pyarrow as arrow
    import pyarrow.parquet as parquet

    known = arrow.Schema.from_pandas(index, preserve_index=False).remove_metadata()
    numbers = [arrow.field(name, arrow.float32()) for name in vector_columns(vectors.shape[1])]
    schema = arrow.schema([*known, *numbers])
    with atomic(path) as temporary, parquet.ParquetWriter(temporary, schema) as writer:
        for start, block in blocks(vectors):
            rows = arrow.Table.from_pandas(index.iloc[start : start + len(block)], known, preserve_index=False)
            columns = [*rows.columns, *(arrow.array(np.ascontiguousarray(column)) for column in block.T)]
            writer.write_table(arrow.Table.from_arrays(columns, schema=schema))


def _write_csv(path: Path, index: pd.DataFrame, vectors: np.ndarray) -> None:
    names = vector_columns(vectors.shape[1])
    with atomic(path) as temporary, temporary.open("w", encoding="utf-8", newline="") as target:
        pd.DataFrame(columns=[*index.columns, *names]).to_csv(target, index=False, lineterminator="\n")
        for start, block in blocks(vectors):
            known = index.iloc[start : start + len(block)].reset_index(drop=True)
            table = pd.concat([known, pd.DataFrame(block, columns=names)], axis=1)
            table.to_csv(target, index=False, header=False, lineterminator="\n")
