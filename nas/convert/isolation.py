"""A capture leaves no trace: random generators, settings, caches of functions, warnings and logs are as they were."""

from __future__ import annotations

import contextlib
import functools
import inspect
import io
import logging
import math
import random
import sys
import types
import warnings
from collections.abc import Iterable, Iterator
from contextlib import ExitStack, contextmanager
from typing import Any

import numpy as np
import torch
from torch import nn

from nas.convert.tracking import Whole, square_root

_FOREIGN = frozenset({"nas", "torch", "numpy", "sympy", "mpmath", "networkx", *sys.stdlib_module_names})
"""Packages whose functions keep no tensors or sizes of a model."""


_MATH = types.ModuleType("math")
_MATH.__dict__.update(vars(math) | {"sqrt": square_root})


@contextmanager
def isolated(model: nn.Module) -> Iterator[None]:
    """What is done inside has no effect on anything but its own objects, and is quiet."""
    states = torch.get_rng_state(), random.getstate(), np.random.get_state()
    fast = torch.backends.mha.get_fastpath_enabled()
    torch.backends.mha.set_fastpath_enabled(False)  # else attention is one operator whose sizes are not seen
    try:
        with ExitStack() as stack:
            stack.enter_context(_quiet())
            stack.enter_context(torch.no_grad())
            _replace_functions(model, stack)
            yield
    finally:
        torch.backends.mha.set_fastpath_enabled(fast)
        torch.set_rng_state(states[0])
        random.setstate(states[1])
        np.random.set_state(states[2])


@contextmanager
def compiled(told: bool) -> Iterator[None]:
    """What `torch.compiler.is_compiling()` and `is_exporting()` say inside."""
    names = ("_is_compiling_flag", "_is_exporting_flag")
    before = {name: getattr(torch.compiler, name) for name in names}
    vars(torch.compiler).update(dict.fromkeys(names, told))
    try:
        yield
    finally:
        vars(torch.compiler).update(before)


@contextmanager
def _quiet() -> Iterator[None]:
    """Without the warnings, logs and graphs that the export writes about things that are looked at here."""
    loggers = [logging.getLogger(name) for name in list(logging.root.manager.loggerDict) if name.startswith("torch")]
    changed = [logger for logger in loggers if not logger.disabled]
    for logger in changed:
        logger.disabled = True
    try:
        with warnings.catch_warnings(), contextlib.redirect_stderr(io.StringIO()):
            warnings.simplefilter("ignore")
            yield
    finally:
        for logger in changed:
            logger.disabled = False


def _replace_functions(model: nn.Module, stack: ExitStack) -> None:
    """Put others in the place of functions that would remember what they are given, or ask for values of tensors."""
    for owner, name, function in list(_caching(model)):
        stack.enter_context(_replaced(owner, name, function))
    stack.enter_context(_replaced(nn.modules.transformer, "_detect_is_causal_mask", _is_causal))
    stack.enter_context(_replaced(nn.Module, "_apply", _apply_unless_same(nn.Module._apply)))


def _apply_unless_same(apply: Any) -> Any:
    """`module.to(dtype)` in a forward, where all of it is so already, would swap parameters for traced copies, and cannot."""

    @functools.wraps(apply)
    def method(self: nn.Module, fn: Any, recurse: bool = True) -> nn.Module:
        held = [*self.parameters(recurse), *self.buffers(recurse)]
        if any((given.dtype, given.device) != (found.dtype, found.device) for given in held for found in [fn(given)]):
            return apply(self, fn, recurse)  # type: ignore[no-any-return]
        return self

    return method


@contextmanager
def _replaced(owner: Any, name: str, function: Any) -> Iterator[None]:
    before = owner.cell_contents if isinstance(owner, types.CellType) else vars(owner)[name]
    setattr(owner, name, function)
    try:
        yield
    finally:
        setattr(owner, name, before)


def _caching(model: nn.Module) -> Iterator[tuple[Any, str, Any]]:
    """Functions with `functools.lru_cache` of modules and of the model's classes: owner, name, function without the cache.

    It takes tracked numbers of equal values for the same, and would keep tensors without values.  And `math.sqrt`,
    which forgets where numbers come from.
    """
    modules = [one for name, one in list(sys.modules.items()) if name.partition(".")[0] not in _FOREIGN]
    classes = {kind for module in model.modules() for kind in type(module).__mro__}
    owners = [*modules, *(kind for kind in classes if kind.__module__.partition(".")[0] not in _FOREIGN)]
    for owner in owners:
        for name, value in list(getattr(owner, "__dict__", {}).items()):
            if type(value) is functools._lru_cache_wrapper:
                yield owner, name, value.__wrapped__
            elif isinstance(value, types.FunctionType):
                yield from _in_closure(value)
            elif value is math:
                yield owner, name, _MATH
            elif value is math.sqrt:
                yield owner, name, square_root


def int_callers(model: nn.Module) -> list[types.ModuleType]:
    """Python modules of the model's classes in which some function speaks of `int`."""
    names = {kind.__module__ for module in model.modules() for kind in type(module).__mro__}
    modules = [
        sys.modules[name] for name in sorted(names) if name in sys.modules and name.partition(".")[0] not in _FOREIGN
    ]
    return [module for module in modules if "int" not in vars(module) and any(map(_speaks_of_int, _functions(module)))]


@contextmanager
def keeping_sources(modules: Iterable[types.ModuleType]) -> Iterator[None]:
    """While it is active, `int(...)` in these Python modules keeps where a number came from."""
    given = list(modules)
    for module in given:
        vars(module)["int"] = Whole
    try:
        yield
    finally:
        for module in given:
            vars(module).pop("int", None)


def _functions(module: types.ModuleType) -> Iterator[types.CodeType]:
    for value in list(vars(module).values()):
        if getattr(value, "__module__", None) != module.__name__:
            continue
        for one in [value, *vars(value).values()] if isinstance(value, type) else [value]:
            code = getattr(inspect.unwrap(one) if callable(one) else one, "__code__", None)
            if isinstance(code, types.CodeType):
                yield code


def _speaks_of_int(code: types.CodeType) -> bool:
    return "int" in code.co_names or any(
        isinstance(one, types.CodeType) and _speaks_of_int(one) for one in code.co_consts
    )


def _in_closure(function: types.FunctionType) -> Iterator[tuple[Any, str, Any]]:
    """Functions with a cache that a decorator keeps: where, and the function without the cache."""
    for cell in function.__closure__ or ():
        with contextlib.suppress(ValueError):  # it is empty
            if type(cell.cell_contents) is functools._lru_cache_wrapper:
                yield cell, "cell_contents", cell.cell_contents.__wrapped__


def _is_causal(*given: Any, is_causal: bool | None = None, **_: Any) -> bool:
    """Instead of looking at the mask: it is used all the same, so that the function is the same."""
    return bool(is_causal if len(given) < 2 else given[1])
