"""Names of classes from a file: a line for each, a CSV table, or JSON as published networks come with it."""

from __future__ import annotations

import csv
import json
from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from abbe.errors import AbbeError

NAMED = ("class", "name", "label")
"""Columns of a table that may hold the names."""
NUMBERED = ("index", "number", "id")
"""Columns of a table that may hold the places of the names, from 0."""
FORMS = "expected a name on each line, a CSV table with the column class, or JSON with a list or {number: name}"


def read_class_names(path: Path) -> list[str]:
    """Read the names of classes in the order of a network's outputs.

    Parameters
    ----------
    path
        Text with a name on each line; ``.csv`` or ``.tsv`` with the column ``class``, ``name`` or ``label``, in the
        order of the column ``index`` where there is one; or ``.json``: a list, an object of numbers and names (or
        lists that end with the name, as Keras has them), or a configuration of transformers with its ``id2label``.

    Returns
    -------
    list of str
        All different: a name that comes twice gets its number behind it.

    Raises
    ------
    AbbeError
        When it cannot be read, or a name is missing.
    """
    try:
        text = path.read_text(encoding="utf-8-sig")
    except (OSError, UnicodeDecodeError) as error:
        raise AbbeError(f"{path}: cannot be read as names of classes ({error})") from error
    suffix = path.suffix.lower()
    if suffix == ".json":
        names = _of_json(text, path)
    elif suffix in (".csv", ".tsv"):
        names = _of_table(text, "\t" if suffix == ".tsv" else ",", path)
    else:
        names = text.rstrip().splitlines()
    names = [name.strip() for name in names]
    if not any(names):
        raise AbbeError(f"{path}: holds no names of classes; {FORMS}")
    if "" in names:
        raise AbbeError(f"{path}: class {names.index('')} has no name; expected one for each class")
    return made_different(names)


def made_different(names: Sequence[str]) -> list[str]:
    """Write its number behind every name that comes more than once: "crane (134)"."""
    times = Counter(names)
    return [f"{name} ({place})" if times[name] > 1 else name for place, name in enumerate(names)]


def _of_json(text: str, path: Path) -> list[str]:
    try:
        content = json.loads(text)
    except ValueError as error:
        raise AbbeError(f"{path}: not JSON ({error}); {FORMS}") from error
    if isinstance(content, dict):
        content = content.get("id2label", content)
    if isinstance(content, dict):
        content = _in_order(list(content.items()), path)
    names = [one[-1] if isinstance(one, list) and one else one for one in content] if isinstance(content, list) else []
    if not names or not all(isinstance(name, str) for name in names):
        raise AbbeError(f"{path}: holds no names of classes; {FORMS}")
    return names


def _of_table(text: str, delimiter: str, path: Path) -> list[str]:
    rows = list(csv.DictReader(text.splitlines(), delimiter=delimiter))
    columns = {str(name).strip().lower(): name for name in (rows[0] if rows else {})}
    named = next((columns[name] for name in NAMED if name in columns), None)
    if named is None:
        raise AbbeError(f"{path}: has the columns {', '.join(columns) or 'none'}; expected class, and index if need be")
    numbered = next((columns[name] for name in NUMBERED if name in columns), None)
    if numbered is None:
        return [row[named] or "" for row in rows]
    return _in_order([(row[numbered], row[named] or "") for row in rows], path)


def _in_order(pairs: Sequence[tuple[Any, Any]], path: Path) -> list[Any]:
    """Put names into the order of their numbers, which are all from 0 on."""
    try:
        numbers = [int(number) for number, _ in pairs]
    except (TypeError, ValueError):
        raise AbbeError(f"{path}: {pairs[0][0]!r} is not the number of a class; {FORMS}") from None
    if sorted(numbers) != list(range(len(pairs))):
        raise AbbeError(f"{path}: {len(pairs)} numbers of classes that are not 0 to {len(pairs) - 1}, each once")
    return [name for _, (_, name) in sorted(zip(numbers, pairs, strict=True))]
