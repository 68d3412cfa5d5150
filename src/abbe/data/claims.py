"""What a header claims, held against the bytes that are there: a false number must not cost memory or time.

A compressed image may be far larger than its file, but no codec can do wonders: the matches of Deflate, the codes of
LZW and the runs of run lengths have longest ones. More than that is a lie, and told before anything is allocated.
Codecs that describe blank areas in a few bytes get a generous limit.
"""

from __future__ import annotations

import math
import os
from collections.abc import Iterator, Sequence
from pathlib import Path

from abbe.errors import AbbeError

ALWAYS = 2**20
"""So many bytes may be claimed by any file; less is not worth a look."""
EXPANSION = {"raw": 8, "run lengths": 130, "deflate": 1100, "jpeg": 1100, "lzw": 1500, "fax": 2**24}
"""Decoded bytes that a codec can make of one: 1032 for Deflate (RFC 1951), 64 and 127 for run lengths, 1024 for JPEG
with a bit for each empty block, about 1370 for LZW with codes of 12 bits, a row for each bit of fax; with some air."""
GENEROUS = 2**16
"""The same for all other codecs."""


SPARSE = 2**36
"""So many bytes of a Zarr may be claimed without a look at what is stored: chunks that nobody wrote are no lie."""


def check_claim(name: str, extents: Sequence[int], itemsize: float, stored: int, codec: str = "") -> None:
    """Refuse pixels that cannot come from so few bytes.

    Parameters
    ----------
    name
        The file, for the message.
    extents
        What the header says will be decoded at once.
    itemsize
        Bytes of one value as it is stored, before it is widened: an eighth for a bit.
    stored
        Bytes that are there to decode.
    codec
        One of :data:`EXPANSION`, else anything.

    Raises
    ------
    AbbeError
        If the claim is larger than :data:`ALWAYS` and than what the codec could make of the bytes.
    """
    claimed = math.prod(extents) * itemsize
    if claimed > max(ALWAYS, stored * EXPANSION.get(codec, GENEROUS)):
        shape = " x ".join(map(str, extents))
        raise AbbeError(
            f"{name}: its header claims {shape} values ({claimed / 2**20:.0f} MiB) where {stored} bytes are stored; "
            "it is damaged, expected a header that fits its data"
        )


def check_sparse_claim(name: str, extents: Sequence[int], itemsize: int, folder: Path) -> None:
    """Refuse an array of more than :data:`SPARSE` bytes that the files of a folder cannot hold.

    Raises
    ------
    AbbeError
        As :func:`check_claim`; it stops looking at files once there are enough.
    """
    claimed = math.prod(extents) * itemsize
    if claimed <= SPARSE:
        return
    stored = 0
    for size in _sizes(folder):
        stored += size
        if stored * GENEROUS >= claimed:
            return
    check_claim(name, extents, itemsize, stored)


def _sizes(folder: Path) -> Iterator[int]:
    for place, _, files in os.walk(folder):
        yield from (os.path.getsize(os.path.join(place, file)) for file in files)
