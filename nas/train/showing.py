"""How tasks and trainings show themselves: what they are made of, never the numbers of their data."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from typing import Any

_LONGEST = 60


def outline(value: Any) -> str:
    """A value in a few words: data by kind and shape, options as they are, everything else by its class.

    >>> outline((1, "cosine")), outline(len)
    ("(1, 'cosine')", 'len')
    """
    shape, dtype = getattr(value, "shape", None), getattr(value, "dtype", None)
    if shape is not None and dtype is not None:
        return f"{str(dtype).removeprefix('torch.')} {tuple(shape)}"
    if isinstance(value, Mapping):
        return _cut(f"{{{', '.join(f'{key!r}: {outline(item)}' for key, item in list(value.items())[:6])}}}")
    if type(value) in (tuple, list):
        shown = ", ".join(outline(item) for item in value[:6]) + (", …" if len(value) > 6 else "")
        return _cut(f"({shown})" if type(value) is tuple else f"[{shown}]")
    if value is None or isinstance(value, (bool, int, float, str)):
        return _cut(repr(value))
    if callable(value) and hasattr(value, "__qualname__"):
        return _cut(value.__qualname__)
    return type(value).__name__


def parts(one: Any) -> dict[str, str]:
    """What an object is made of: fields of a dataclass that differ from their defaults, public attributes of another."""
    if dataclasses.is_dataclass(one):
        found = {
            field.name: getattr(one, field.name, None)
            for field in dataclasses.fields(one)
            if not _is_default(field, getattr(one, field.name, None))
        }
    else:
        found = {name: value for name, value in vars(one).items() if not name.startswith("_")}
    return {name: outline(value) for name, value in found.items()}


def _is_default(field: dataclasses.Field[Any], value: Any) -> bool:
    default = field.default
    plain = default is None or isinstance(default, (bool, int, float, str))
    return plain and type(default) is type(value) and default == value


def _cut(text: str) -> str:
    return text if len(text) <= 2 * _LONGEST else f"{text[: 2 * _LONGEST - 1]}…"
