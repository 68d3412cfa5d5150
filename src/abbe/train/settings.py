"""Plain mappings and texts to configuration dataclasses: types converted, unknown keys refused by name."""

from __future__ import annotations

import dataclasses
import difflib
import json
import re
import tomllib
import types
import typing
from collections.abc import Iterable, Mapping
from typing import Any, TypeVar

from abbe.errors import AbbeError

Config = TypeVar("Config")

_WORDS = {
    "true": True,
    "yes": True,
    "on": True,
    "1": True,
    "false": False,
    "no": False,
    "off": False,
    "0": False,
}
_BARE_KEY = re.compile(r"[A-Za-z0-9_-]+")


def nearest(name: str, names: Iterable[str]) -> str:
    """Say which of ``names`` was probably meant, as the end of a sentence."""
    known = sorted(names)
    close = difflib.get_close_matches(name.lower(), known, n=1, cutoff=0.5)
    return f"did you mean {close[0]!r}?" if close else f"known: {', '.join(known) or 'none'}"


def build_config(config_class: type[Config], values: Mapping[str, Any], where: str) -> Config:
    """Build a configuration dataclass from the keys of a file or a command line.

    Parameters
    ----------
    config_class
        A dataclass; fields that are dataclasses themselves take nested mappings.
    values
        Values of the fields' types, or strings that spell them.
    where
        What to call the mapping in messages, for instance ``"nuclei.toml: train"``.

    Raises
    ------
    AbbeError
        When a key is not a field (with the nearest one that is) or a value does not fit its field.
    """
    annotations = typing.get_type_hints(config_class)
    fields = {field.name for field in dataclasses.fields(config_class) if field.init}  # type: ignore[arg-type]
    for key in values:
        if key not in fields:
            raise AbbeError(f"{where}: no setting named {key!r}; {nearest(key, fields)}")
    return config_class(**{key: convert(value, annotations[key], f"{where}.{key}") for key, value in values.items()})


def convert(value: Any, annotation: Any, where: str) -> Any:
    """Bring a value, perhaps spelled as text, to the type of an annotation.

    Texts are read as the annotation says: ``"1e-3"`` for a float, ``"a,b"`` or ``"['a', 'b']"`` for a list,
    ``"none"`` where the annotation allows None, ``"yes"`` or ``"false"`` for a bool.

    Raises
    ------
    AbbeError
        When the value does not fit, naming ``where``, the value and the expected type.
    """
    try:
        return _convert(value, annotation, where)
    except (ValueError, TypeError, KeyError):
        raise AbbeError(
            f"{where}: expected {_spell(annotation)}, found {value!r}{_repeated(value, annotation)}"
        ) from None


def _repeated(value: Any, annotation: Any) -> str:
    """Say how to write a single number where a range is wanted."""
    members, number = typing.get_args(annotation), literal(value) if isinstance(value, str) else value
    if typing.get_origin(annotation) is not tuple or Ellipsis in members or type(number) not in (int, float):
        return ""
    return f'; for {number:g} alone write "[{", ".join([f"{number:g}"] * len(members))}]"'


def _convert(value: Any, annotation: Any, where: str) -> Any:
    origin, arguments = typing.get_origin(annotation), typing.get_args(annotation)
    if annotation is Any:
        return literal(value) if isinstance(value, str) else value
    if origin in (typing.Union, types.UnionType):
        return _convert_union(value, arguments, where)
    if origin is typing.Literal:
        return _member(value, arguments, where)
    if isinstance(annotation, type) and dataclasses.is_dataclass(annotation):
        return value if isinstance(value, annotation) else build_config(annotation, _mapping(value), where)
    if origin in (list, tuple):
        return _convert_sequence(value, origin, arguments, where)
    if annotation is dict or origin is dict:
        member = arguments[1] if arguments else Any
        return {str(key): _inside_mapping(item, member, where) for key, item in _mapping(value).items()}
    return _convert_scalar(value, annotation)


def _convert_union(value: Any, members: tuple[Any, ...], where: str) -> Any:
    if type(None) in members and (value is None or value == "none"):
        return None
    for member in members:
        if member is not type(None):
            try:
                return _convert(value, member, where)
            except (ValueError, TypeError, KeyError):
                continue
    raise ValueError


def _member(value: Any, choices: tuple[Any, ...], where: str) -> Any:
    if value in choices:
        return value
    raise AbbeError(f"{where}: expected one of {', '.join(map(str, choices))}, found {value!r}")


def _convert_sequence(value: Any, kind: Any, members: tuple[Any, ...], where: str) -> Any:
    if isinstance(value, str):
        read = literal(value)
        value = read if isinstance(read, list) else [part.strip() for part in value.split(",") if part.strip()]
    if not isinstance(value, list | tuple):
        raise TypeError
    fixed = kind is tuple and members and members[-1] is not Ellipsis
    if fixed and len(members) != len(value):
        raise ValueError
    wanted = members if fixed else (members[:1] or (Any,)) * len(value)
    return kind(_convert(item, member, where) for item, member in zip(value, wanted, strict=True))


def _inside_mapping(value: Any, annotation: Any, where: str) -> Any:
    """Values of free mappings keep the type that they came with: a TOML string stays a string."""
    return value if annotation is Any else _convert(value, annotation, where)


def _convert_scalar(value: Any, kind: type) -> Any:
    if kind is bool:
        return value if isinstance(value, bool) else _WORDS[value.strip().lower()]
    if isinstance(value, bool):
        raise TypeError
    if kind is int and isinstance(value, str):
        return int(value)
    if kind is float and isinstance(value, str | int):
        return float(value)
    if not isinstance(value, kind):
        raise TypeError
    return value


def _mapping(value: Any) -> Mapping[str, Any]:
    value = literal(value) if isinstance(value, str) else value
    if not isinstance(value, Mapping):
        raise TypeError
    return value


def literal(text: str) -> Any:
    """Read a text as TOML would (``3``, ``0.5``, ``true``, ``[1, 2]``); anything else is the text itself."""
    try:
        return tomllib.loads(f"value = {text}")["value"] if "\n" not in text else text
    except tomllib.TOMLDecodeError:
        return text


def _spell(annotation: Any) -> str:
    return annotation.__name__ if isinstance(annotation, type) else str(annotation).replace("typing.", "")


def to_toml(values: Mapping[str, Any]) -> str:
    """Write a mapping as TOML that ``tomllib`` reads back equal; keys whose value is None are left out.

    Values are bool, int, float, str, mappings with text keys, and lists or tuples (both read back as lists).
    """
    return "\n".join(_table(values, ())).strip("\n") + "\n"


def _table(values: Mapping[str, Any], path: tuple[str, ...]) -> list[str]:
    present = {key: value for key, value in values.items() if value is not None}
    lines = [f"{_key(key)} = {_value(value)}" for key, value in present.items() if not isinstance(value, Mapping)]
    for key, value in present.items():
        if isinstance(value, Mapping):
            inner = (*path, _key(key))
            lines += ["", f"[{'.'.join(inner)}]", *_table(value, inner)]
    return lines


def _key(key: str) -> str:
    return key if _BARE_KEY.fullmatch(key) else _text(key)


def _value(value: Any) -> str:
    if isinstance(value, bool):
        return "true" if value else "false"
    if isinstance(value, int | float):
        return repr(value)
    if isinstance(value, str):
        return _text(value)
    if isinstance(value, list | tuple):
        return f"[{', '.join(map(_value, value))}]"
    if isinstance(value, Mapping):
        return "{" + ", ".join(f"{_key(key)} = {_value(item)}" for key, item in value.items()) + "}"
    raise TypeError(f"TOML has no {type(value).__name__}")


def _text(text: str) -> str:
    # JSON's escapes are TOML's too; only the delete character must be escaped in TOML and is not in JSON
    return json.dumps(text, ensure_ascii=False).replace("\x7f", "\\u007f")
