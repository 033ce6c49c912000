"""From annotations to kinds of values.  Names that only type checkers import are imported when a value is compared with them."""

from __future__ import annotations

import ast
import builtins
import collections.abc
import functools
import importlib
import inspect
import sys
import types
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Annotated, Any, Literal, Union, get_args, get_origin

from nas.checking import kinds
from nas.checking.kinds import Kind, Range


class Annotation:
    """An annotation and the names that it may use."""

    def __init__(self, given: Any, names: dict[str, Any]) -> None:
        self._given, self._names = given, names

    @functools.cached_property
    def kind(self) -> Kind:
        """What it asks of a value."""
        given = self._given
        if isinstance(given, str):
            given = eval(given, self._names, _Names(self._names))
        return kind_of(given)


class _Names(dict[str, Any]):
    """Names of a module that only type checkers import, found in its source; what is not found is anything."""

    def __init__(self, module: dict[str, Any]) -> None:
        super().__init__()
        self._module = module

    def __missing__(self, name: str) -> Any:
        if name in self._module or hasattr(builtins, name):
            raise KeyError(name)
        return _Later(*_imports(self._module["__name__"]).get(name, ("", "")))


@functools.cache
def _imports(module: str) -> dict[str, tuple[str, str]]:
    """Names that a module imports anywhere: the module that has it and its name there, which is empty for a module."""
    try:
        tree = ast.parse(inspect.getsource(sys.modules[module]))
    except (OSError, KeyError, TypeError):
        return {}
    found: dict[str, tuple[str, str]] = {}
    for node in ast.walk(tree):
        if isinstance(node, ast.ImportFrom) and node.module:
            found |= {alias.asname or alias.name: (node.module, alias.name) for alias in node.names}
        elif isinstance(node, ast.Import):
            found |= {alias.asname or alias.name: (alias.name, "") for alias in node.names}
    return found


class _Later:
    """What an annotation names and nobody has imported yet: it costs an import only when a value asks for it."""

    def __init__(self, module: str, name: str) -> None:
        self.module, self.name = module, name

    def __getattr__(self, name: str) -> _Later:
        if name.startswith("__"):
            raise AttributeError(name)
        return _Later(self.module, f"{self.name}.{name}".lstrip("."))

    def __getitem__(self, _: Any) -> _Later:
        return self

    def __or__(self, other: Any) -> Any:
        return _Either((self, other))

    def __ror__(self, other: Any) -> Any:
        return _Either((other, self))

    def resolved(self) -> Any:
        """What it is; `Any` where it cannot be had."""
        try:
            found: Any = importlib.import_module(self.module)
            for part in filter(None, self.name.split(".")):
                found = getattr(found, part)
        except (ImportError, AttributeError, ValueError):
            return Any
        return found


class _Either:
    """A union with something that was not imported yet, which `typing` would not take."""

    def __init__(self, options: tuple[Any, ...]) -> None:
        self.options = options

    def __or__(self, other: Any) -> Any:
        return _Either((*self.options, other))

    def __ror__(self, other: Any) -> Any:
        return _Either((other, *self.options))


class _Deferred(Kind):
    """An object whose class, or alias, is imported when a value is to be compared with it."""

    def __init__(self, later: _Later) -> None:
        self.later = later

    @functools.cached_property
    def kind(self) -> Kind:
        return kind_of(self.later.resolved())

    @property
    def expected(self) -> str:  # type: ignore[override]
        return self.kind.expected

    def _take(self, path: str, value: Any) -> Any:
        return self.kind.take(path, value)


def kind_of(annotation: Any) -> Kind:  # noqa: PLR0911, PLR0912 (one line a kind)
    """What an annotation asks of a value."""
    origin, inside = get_origin(annotation), get_args(annotation)
    if origin is Annotated:
        range_ = next((one for one in inside[1:] if isinstance(one, Range)), Range())
        return (
            kinds.Int(range_) if inside[0] is int else kinds.Float(range_) if inside[0] is float else kind_of(inside[0])
        )
    if annotation is None or annotation is types.NoneType:
        return kinds.Nothing()
    if annotation is int:
        return kinds.Int(Range())
    if annotation is float:
        return kinds.Float(Range())
    if annotation in (bool, str):
        return kinds.Bool() if annotation is bool else kinds.Text()
    if isinstance(annotation, _Later):
        return _Deferred(annotation)
    if isinstance(annotation, _Either) or origin in (Union, types.UnionType):
        options = annotation.options if isinstance(annotation, _Either) else inside
        return _union(options)
    if origin is Literal:
        return kinds.Literal(inside)
    if origin is collections.abc.Callable or annotation is collections.abc.Callable:
        return kinds.Function()
    kind = origin or annotation
    if not isinstance(kind, type) or kind in (object, Any):
        return Kind()
    if issubclass(kind, Mapping):
        return kinds.Pairs(*map(kind_of, inside)) if len(inside) == 2 else kinds.Pairs(Kind(), Kind())
    if kind is tuple and inside and inside[-1] is not ...:
        return kinds.Items(Kind(), kind, tuple(map(kind_of, inside)))
    if kind in _COLLECTIONS:
        return kinds.Items(kind_of(inside[0]) if inside else Kind(), kind)
    if getattr(kind, "_is_protocol", False) and "__call__" in vars(kind):
        return kinds.Function()
    if getattr(kind, "_is_protocol", False):
        return kinds.Like(kind)
    if origin is not None:
        return Kind()
    return kinds.Path() if issubclass(kind, Path) else kinds.Object(kind)


_COLLECTIONS = (list, tuple, set, frozenset, Sequence, Iterable, collections.abc.Collection, collections.abc.Set)


def _union(options: Sequence[Any]) -> Kind:
    flat: list[Any] = []
    for option in options:
        flat += option.options if isinstance(option, _Either) else [option]
    if any(isinstance(option, type) and issubclass(option, Path) for option in flat):
        flat = [option for option in flat if option is not str]  # text beside a path is one
    return kinds.Union([kind_of(option) for option in flat])
