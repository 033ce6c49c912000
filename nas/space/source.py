"""A closed symbolic value as Python source, for people who take a network home."""

from __future__ import annotations

import enum
import inspect
import math
from typing import Any

import pyglove as pg

from nas.errors import SpaceError
from nas.space.model import origin_of


def python_source(value: Any, files: dict[str, bytes] | None = None) -> tuple[str, list[str]]:
    """An expression that evaluates to `value`, and the modules that it needs imported.

    An object with a method `_nas_source` writes itself; one that is data puts it into a file, which the expression reads from
    `_HERE`, the folder of the source.

    >>> python_source([1, (2.0, "a"), None])
    ("[1, (2.0, 'a'), None]", [])

    Args:
        value: closed.
        files: gets name and content of each file that the expression reads; without it, such a value is refused.

    Raises:
        SpaceError: a part of it has no name that an importing module could use.
    """
    modules: set[str] = set()
    return _expression(value, modules, files), sorted(modules)


def _expression(value: Any, modules: set[str], files: dict[str, bytes] | None = None) -> str:
    if value is None or isinstance(value, (bool, int, float, str)):
        return _scalar(value, modules)
    if isinstance(value, (tuple, list)):
        return _sequence(value, modules, files)
    if isinstance(value, dict):
        items = value.sym_items() if isinstance(value, pg.Dict) else value.items()
        return "{" + ", ".join(f"{key!r}: {_expression(item, modules, files)}" for key, item in items) + "}"
    if isinstance(value, pg.Object):
        given = [(name, item) for name, item in value.sym_init_args.items() if item is not pg.MISSING_VALUE]
        arguments = ", ".join(f"{name}={_expression(item, modules, files)}" for name, item in given)
        return f"{_called(type(value), modules)}({arguments})"
    if inspect.isclass(value) or inspect.isroutine(value):
        return _name(value, modules)
    if files is not None and hasattr(type(value), "_nas_source"):
        modules.add(type(value).__module__)
        return str(value._nas_source(lambda item: _expression(item, modules, files), files))
    raise SpaceError(
        f"a {type(value).__name__} cannot be written as Python source; use JSON values, symbolic objects, classes"
    )


def _scalar(value: Any, modules: set[str]) -> str:
    if isinstance(value, enum.Enum):
        return f"{_name(type(value), modules)}[{value.name!r}]"
    if isinstance(value, float) and not math.isfinite(value):
        return f"float({str(value)!r})"
    return repr(value)


def _sequence(value: tuple[Any, ...] | list[Any], modules: set[str], files: dict[str, bytes] | None) -> str:
    inner = ", ".join(_expression(item, modules, files) for item in value)
    if isinstance(value, list):
        return f"[{inner}]"
    return f"({inner},)" if len(value) == 1 else f"({inner})"


def _called(cls: type, modules: set[str]) -> str:
    """What makes an object of `cls`; a class wrapped by `nas.model` is not what its name says, so it is wrapped again."""
    origin = origin_of(cls)
    if origin is None:
        return _name(cls, modules)
    modules.add("nas")
    return f"nas.model({_name(origin, modules)})"


def _name(thing: Any, modules: set[str]) -> str:
    module, name = thing.__module__, thing.__qualname__
    if "<" in name:
        raise SpaceError(
            f"{name} is defined inside a function, so nobody can import it; move it to the top level of {module}"
        )
    if module == "builtins":
        return str(name)
    modules.add(module)
    return f"{module}.{name}"
