"""The algorithm inside another one."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from nas.checking import shown
from nas.errors import AlgorithmError
from nas.search.base import Algorithm, History


def inner(algorithm: str | Algorithm | Mapping[str, Any], seed: int, outer: Algorithm) -> Algorithm:
    """An algorithm, its name, or what it describes itself as, as an algorithm.

    Args:
        algorithm: what was given.
        seed: for one that is given by its name alone, if it takes one.
        outer: what it is for, which is not put into itself.

    Raises:
        AlgorithmError: it is none of these, or of the same kind as `outer`.
    """
    from nas.search.registry import make  # which knows those that have others inside

    if isinstance(algorithm, str):
        algorithm = {"name": algorithm}
        kind = make(**algorithm)
        algorithm = make(**algorithm, seed=seed) if hasattr(kind, "seed") and "seed" in kind.describe() else kind
    elif isinstance(algorithm, Mapping) and "name" in algorithm:
        algorithm = make(**algorithm)
    if not isinstance(algorithm, Algorithm) or type(algorithm) is type(outer):
        raise AlgorithmError(
            f"{outer.name} was given algorithm={shown(algorithm)}; it is an algorithm other than itself, or the name of one"
        )
    return algorithm


def restored(algorithm: Algorithm, history: History) -> None:
    """Give an algorithm inside another one the history; what is pending is reserved by `reserve`, in both."""
    columns = vars(history) | {"pending": ()}
    algorithm.restore(History(**columns))
