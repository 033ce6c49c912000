"""Whether a study's evaluation is going on in this thread: then weights that were never trained are refused.

A plain function reads a supernet through its closure, so that only the supernet itself can notice; it asks here.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar

_depth: ContextVar[int] = ContextVar("evaluations of studies around this code", default=0)


@contextmanager
def in_study() -> Iterator[None]:
    """An evaluation of a study: supernets made before it must have weights that mean something."""
    token = _depth.set(_depth.get() + 1)
    try:
        yield
    finally:
        _depth.reset(token)


@contextmanager
def any_weights() -> Iterator[None]:
    """What is read inside the block does not depend on the values of weights, as a latency does not."""
    token = _depth.set(0)
    try:
        yield
    finally:
        _depth.reset(token)


def is_strict() -> bool:
    """Whether initial weights are refused here."""
    return _depth.get() > 0
