"""What a candidate is called, whether it can be stored, and when two candidates are the same."""

from __future__ import annotations

import enum
import importlib
import math
import types
from collections import Counter
from collections.abc import Hashable, Sequence
from typing import Any

import pyglove as pg

from nas.errors import SpaceError

Label = None | bool | int | float | str
MISSING = pg.MISSING_VALUE
_LONGEST = 60


def is_scalar(value: Any) -> bool:
    """Whether JSON has this value as it is (finite numbers only)."""
    return value is None or isinstance(value, bool | int | str) or (isinstance(value, float) and math.isfinite(value))


def qualified_name(value: Any) -> str | None:
    """`module.qualname` of a class, function or enum member that an import of its module finds again; None otherwise."""
    if isinstance(value, enum.Enum):
        owner = qualified_name(type(value))
        return f"{owner}.{value.name}" if owner else None
    if not isinstance(value, type | types.FunctionType | types.BuiltinFunctionType):
        return None
    module, name = getattr(value, "__module__", None), getattr(value, "__qualname__", "")
    if not module or "<" in name:
        return None
    found: Any = importlib.import_module(module)
    for part in name.split("."):
        found = getattr(found, part, None)
    if found is value:
        return f"{module}.{name}"
    # A model function made of somebody's class is found by what it was made of.
    origin = qualified_name(getattr(value, "_nas_origin", None))
    return f"nas.model({origin})" if origin else None


def identity(value: Any) -> Hashable:
    """A key that is equal for candidates that close to the same values: structure, types and scalars.

    Raises:
        SpaceError: `value` holds something that cannot be stored.
    """
    if isinstance(value, float):
        return "float", value if not math.isnan(value) else "nan"
    if is_scalar(value):
        return type(value).__name__, value
    if isinstance(value, pg.Object):
        items = tuple((key, identity(item)) for key, item in object_items(value))
        return type(value), items
    if isinstance(value, dict):
        return "dict", tuple((key, identity(item)) for key, item in raw_items(value))
    if isinstance(value, list | tuple):
        kind = "list" if isinstance(value, list) else type(value).__qualname__
        return kind, tuple(identity(item) for item in raw_elements(value))
    name = qualified_name(value)
    if name is None:
        raise SpaceError(
            f"candidate {short(value)} of type {type(value).__name__} cannot be stored; "
            "use numbers, strings, lists, dicts, symbolic objects, or importable classes and functions"
        )
    return "name", name


def raw_items(value: dict[Any, Any]) -> list[tuple[Any, Any]]:
    """Items of a dict with symbolic references as they are, not what they point to."""
    return list(value.sym_items()) if isinstance(value, pg.Dict) else list(value.items())


def raw_elements(value: Sequence[Any]) -> list[Any]:
    """Elements of a list or tuple with symbolic references as they are."""
    return list(value.sym_values()) if isinstance(value, pg.List) else list(value)


def object_items(value: pg.Object) -> list[tuple[str, Any]]:
    """The bound arguments of a symbolic object."""
    return [(key, item) for key, item in value.sym_init_args.sym_items() if item is not MISSING and item != MISSING]


def short(value: Any) -> str:  # noqa: PLR0911 (one line a kind)
    """A compact text of a value that is the same in every process (no addresses)."""
    if isinstance(value, pg.hyper.Float):
        return f"floatv({value.min_value}, {value.max_value})"
    if isinstance(value, pg.hyper.Choices):
        inner = ", ".join(short(candidate) for candidate in value.sym_getattr("candidates").sym_values())
        return f"oneof({inner})" if isinstance(value, pg.hyper.OneOf) else f"manyof({value.num_choices}, {inner})"
    if isinstance(value, pg.Object):
        defaults = {key.text: field.default_value for key, field in type(value).__schema__.items() if key.is_const}
        bound = [(key, item) for key, item in object_items(value) if not _is_default(item, defaults.get(key, MISSING))]
        return f"{type(value).__name__}({', '.join(f'{key}={short(item)}' for key, item in bound)})"
    if isinstance(value, dict):
        return "{" + ", ".join(f"{key}: {short(item)}" for key, item in raw_items(value)) + "}"
    if isinstance(value, list | tuple):
        inner = ", ".join(short(item) for item in raw_elements(value))
        return f"[{inner}]" if isinstance(value, list) else f"({inner})"
    if is_scalar(value) or isinstance(value, float):
        return repr(value) if not isinstance(value, str) else value
    if isinstance(value, enum.Enum):
        return f"{type(value).__name__}.{value.name}"
    return getattr(value, "__qualname__", None) or type(value).__name__


def _is_default(item: Any, default: Any) -> bool:
    return default is not MISSING and type(item) is type(default) and bool(pg.eq(item, default))


def labels_of(candidates: Sequence[Any], canonical: Sequence[int]) -> tuple[Label, ...]:
    """A label a candidate, different for different candidates, equal for equal ones.

    JSON scalars are their own label.  Others are called by the first of these that no other candidate has: class name
    (objects only), short text of up to 60 characters, class name with #index.
    """
    forms = [_forms(value, index) for index, value in enumerate(candidates)]
    firsts = sorted(set(canonical))
    labels: dict[int, Label] = {}
    for rank in range(3):
        named = {i: labels.get(i, forms[i][min(rank, len(forms[i]) - 1)]) for i in firsts}
        # Compared as text: 1 and "1" as labels of one decision would be told apart by nobody who types them.
        uses = Counter(_text(label) for label in named.values())
        for i in firsts:
            label = named[i]
            if i not in labels and uses[_text(label)] == 1 and not (isinstance(label, str) and label == ""):
                labels[i] = label
    for i in firsts:
        labels.setdefault(i, forms[i][0] if is_scalar(candidates[i]) else forms[i][-1])
    return tuple(labels[i] for i in canonical)


def _text(label: Label) -> str:
    return label if isinstance(label, str) else repr(label)


def _forms(value: Any, index: int) -> list[Label]:
    if is_scalar(value):
        return [value]
    text = short(value)
    named = isinstance(value, type | types.FunctionType)
    name = value.__name__ if named else type(value).__name__
    fallback = f"{name}#{index}"
    first = name if isinstance(value, pg.Object) and not isinstance(value, pg.hyper.HyperValue) else text
    return [first if len(first) <= _LONGEST else fallback, text if len(text) <= _LONGEST else fallback, fallback]
