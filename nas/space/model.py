"""`nas.model`: model functions."""

from __future__ import annotations

import functools
import inspect
from collections.abc import Callable
from typing import Any

import pyglove as pg


def model(target: Callable[..., Any]) -> Any:
    """Make a model function of a function or class: calling it with open arguments gives a symbolic value.

    >>> import pyglove as pg
    >>> @model
    ... def mlp(width, depth=2):
    ...     return [width] * depth
    >>> mlp(width=pg.oneof([8, 16])).width.candidates
    [8, 16]

    Args:
        target: a function or class; may be somebody else's: `nas.model(BertModel)`.

    Returns:
        A `pg.Functor` class with the target's signature and docstring.
    """
    if inspect.isfunction(target):
        return pg.functor(target)
    return pg.functor(_as_function(target))


def _as_function(target: Callable[..., Any]) -> Callable[..., Any]:
    @functools.wraps(target, updated=())
    def build(*args: Any, **kwargs: Any) -> Any:
        return target(*args, **kwargs)

    build.__signature__ = inspect.signature(target)  # type: ignore[attr-defined]
    return build
