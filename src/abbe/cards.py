"""What there is to know about a name: the card of a model, the paper and file of a network, the text of a recipe."""

from __future__ import annotations

from importlib.resources import files

from abbe.errors import AbbeError
from abbe.methods.catalog import ENTRIES, entry
from abbe.weights.records import RECORDS, read_card


def card(name: str) -> str:
    """Give the text that ``abbe show NAME`` prints.

    Raises
    ------
    AbbeError
        When no model, network or recipe has that name.
    """
    recipe = files("abbe.recipes") / f"{name}.toml"
    parts = [read_card(name)] if name in RECORDS else []
    parts += [_network(name)] if name in ENTRIES else []
    parts += [f"recipe {name}\n\n{recipe.read_text(encoding='utf-8')}"] if recipe.is_file() else []
    if not parts:
        known = sorted({*RECORDS, *ENTRIES})
        raise AbbeError(f"{name}: no model, network or recipe has that name; there are {', '.join(known)}")
    return "\n\n".join(part.strip() for part in parts)


def _network(name: str) -> str:
    known = entry(name)
    lines = [
        f"network {name}",
        f"  paper   {known.title} ({known.year}), {known.paper}",
        f"  file    {files('abbe.methods') / known.file}",
        f"  task    {known.task}",
        f"  recipe  {known.recipe or 'none'}",
    ]
    return "\n".join(lines)
