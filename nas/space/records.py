"""Symbolic objects as cheap arguments: when one may be shared between builds, and a dict with attribute access."""

from __future__ import annotations

import enum
import types
from typing import Any

import pyglove as pg

from nas.space.labels import object_items, raw_elements, raw_items


class Record(dict[Any, Any]):
    """A dict whose items are attributes too, as `pg.Dict` has them, at the cost of a dict."""

    __slots__ = ()

    def __getattr__(self, name: str) -> Any:
        try:
            return self[name]
        except KeyError:
            raise AttributeError(f"no item {name!r}; there are {list(self)}") from None

    def __setattr__(self, name: str, value: Any) -> None:
        self[name] = value


def plain(value: Any) -> Any:
    """A list or dict of leaves as a fresh plain one: `Record` for a dict."""
    return list(raw_elements(value)) if isinstance(value, list) else Record(raw_items(value))


def is_shareable(value: Any) -> bool:
    """Whether nobody can change a sealed copy of the closed `value`: scalars, names, and records made of such."""
    if isinstance(value, pg.Object):
        return is_record(type(value)) and all(is_shareable(item) for _, item in object_items(value))
    if isinstance(value, pg.Dict):
        return all(is_shareable(item) for _, item in raw_items(value))
    if isinstance(value, pg.List | tuple):
        return all(is_shareable(item) for item in raw_elements(value))
    return value is None or isinstance(value, bool | int | float | str | type | types.FunctionType | enum.Enum)


def is_record(cls: type[pg.Object]) -> bool:
    """Whether objects of `cls` are their arguments and nothing else: no code of the class runs when one is made."""
    if issubclass(cls, pg.symbolic.ClassWrapper):
        return False
    if issubclass(cls, pg.Functor):
        return not cls.is_subclassed_functor()
    return cls._on_bound is pg.Object._on_bound and cls._on_init is pg.Object._on_init
