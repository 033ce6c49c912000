"""What code does to names: which functions and classes are a user's, what they read, and what they change in place."""

from __future__ import annotations

import dis
import functools
import inspect
import sys
import sysconfig
import types
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

_FILLING = frozenset(
    {"add", "append", "appendleft", "clear", "extend", "insert", "pop", "popitem", "setdefault", "update"}
)
ATTRIBUTE, GLOBAL = "LOAD_ATTR", "LOAD_GLOBAL"


def is_own(one: Any) -> bool:
    """Whether a function or a class is a user's: neither this library's nor torch's, nor installed."""
    name = str(getattr(one, "__module__", None))
    return name.partition(".")[0] not in ("builtins", "nas", "torch") and not _is_installed(name)


@functools.cache
def _is_installed(module: str) -> bool:
    file = getattr(sys.modules.get(module), "__file__", None)
    places = {sysconfig.get_path(key) for key in ("stdlib", "platstdlib", "purelib", "platlib")}
    return file is not None and any(Path(file).is_relative_to(place) for place in places)


def methods_of(kind: type) -> dict[str, types.FunctionType]:
    """By name: functions that a class of the user's, and those of the user's that it is derived from, define."""
    found: dict[str, types.FunctionType] = {}
    for base in (base for base in kind.__mro__ if is_own(base)):
        for name, attribute in vars(base).items():
            method = function_of(attribute)
            if method is not None and is_own(method):
                found.setdefault(name, method)
    return found


def reached(one: Any) -> dict[str, types.FunctionType]:
    """By name: a function or the methods of a class, and those of all functions and classes of the user's that they read."""
    found: dict[str, types.FunctionType] = {}
    waiting, seen = [one], set[int]()
    while waiting:
        now = waiting.pop()
        if id(now) in seen or not isinstance(now, (type, types.FunctionType)) or not is_own(now):
            continue
        seen.add(id(now))
        if isinstance(now, type):
            waiting += methods_of(now).values()
            continue
        found[now.__qualname__] = now
        names = {name for code in codes_of(now.__code__) for name in code.co_names}
        waiting += [now.__globals__[name] for name in sorted(names) if name in now.__globals__]
    return found


def changed_globals(function: types.FunctionType) -> set[str]:
    """Names of globals that code assigns, or changes in place."""
    steps = [list(dis.get_instructions(code)) for code in codes_of(function.__code__)]
    assigned = {str(one.argval) for code in steps for one in code if one.opname in ("STORE_GLOBAL", "DELETE_GLOBAL")}
    return assigned.union(*(changed(code, GLOBAL) for code in steps))


def changed(steps: Sequence[dis.Instruction], load: str = ATTRIBUTE) -> Iterator[str]:
    """Names of what is loaded so: whose attributes or items are assigned, or of which a method is called that changes it."""
    for at, step in enumerate(steps):
        whose = None
        if step.opname in ("STORE_SUBSCR", "DELETE_SUBSCR", "STORE_SLICE"):
            whose = _before(steps, at, 2 if step.opname == "STORE_SLICE" else 1)
        elif step.opname == "COPY" and step.arg in (1, 2):  # of an assignment such as +=
            whose = _before(steps, at, step.arg - 1)
        elif step.opname in ("STORE_ATTR", "DELETE_ATTR") and at:
            if load == ATTRIBUTE:
                yield str(step.argval)
            whose = steps[at - 1]
        elif step.opname in ("LOAD_METHOD", "LOAD_ATTR") and at:
            name = str(step.argval)
            whose = steps[at - 1] if name in _FILLING or (name.endswith("_") and not name.startswith("_")) else None
        if whose is not None and whose.opname == load:
            yield str(whose.argval)


def _before(steps: Sequence[dis.Instruction], at: int, values: int) -> dis.Instruction | None:
    """The last instruction before those that put the topmost `values` on the stack for the one at `at`."""
    while values > 0 and at > 0:
        at -= 1
        values -= dis.stack_effect(steps[at].opcode, steps[at].arg, jump=False)
    return steps[at - 1] if at > 0 else None


def function_of(attribute: Any) -> types.FunctionType | None:
    """The function of a method, of whatever kind."""
    if isinstance(attribute, property):
        attribute = attribute.fget
    if isinstance(attribute, functools.cached_property):
        attribute = attribute.func
    found = inspect.unwrap(getattr(attribute, "__func__", attribute)) if attribute is not None else None
    return found if isinstance(found, types.FunctionType) else None


def codes_of(code: types.CodeType) -> Iterator[types.CodeType]:
    """Of a function, and of those inside it."""
    yield code
    for inner in code.co_consts:
        if isinstance(inner, types.CodeType):
            yield from codes_of(inner)
