"""Checks of algorithm options: what was given, what was expected."""

from __future__ import annotations

from collections.abc import Sequence
from math import inf

from nas.errors import AlgorithmError


def whole(algorithm: str, option: str, value: object, least: int) -> int:
    """`value`, if it is a whole number of at least `least`.

    Raises:
        AlgorithmError: it is not.
    """
    if isinstance(value, bool) or not isinstance(value, int) or value < least:
        raise AlgorithmError(f"{algorithm} was given {option}={value!r}; it is a whole number, {least} or more")
    return value


def fraction(algorithm: str, option: str, value: object, *, above: float = -inf) -> float:
    """`value`, if it is a number from 0 to 1 (and greater than `above`).

    Raises:
        AlgorithmError: it is not.
    """
    if (
        isinstance(value, bool)
        or not isinstance(value, int | float)
        or not max(0.0, above) <= value <= 1
        or value == above
    ):
        lower = f"above {above:g}" if above >= 0 else "0 or more"
        raise AlgorithmError(f"{algorithm} was given {option}={value!r}; it is a number, {lower} and at most 1")
    return float(value)


def switch(algorithm: str, option: str, value: object) -> bool:
    """`value`, if it is True or False.

    Raises:
        AlgorithmError: it is not.
    """
    if not isinstance(value, bool):
        raise AlgorithmError(f"{algorithm} was given {option}={value!r}; it is True or False")
    return value


def number(algorithm: str, option: str, value: object, *, above: float = -inf, least: float = -inf) -> float:
    """`value`, if it is a finite number greater than `above` and not less than `least`.

    Raises:
        AlgorithmError: it is not.
    """
    if isinstance(value, bool) or not isinstance(value, int | float) or not (above < value < inf and value >= least):
        bound = f" above {above:g}" if above > -inf else f", {least:g} or more" if least > -inf else ""
        raise AlgorithmError(f"{algorithm} was given {option}={value!r}; it is a finite number{bound}")
    return float(value)


def positives(algorithm: str, option: str, value: object, *, least: int = 0) -> tuple[float, ...]:
    """`value` as a tuple, if it is a sequence of at least `least` finite numbers above 0.

    Raises:
        AlgorithmError: it is not.
    """
    if isinstance(value, str) or not isinstance(value, Sequence) or len(value) < least:
        many = f"{least} or more numbers" if least else "numbers"
        raise AlgorithmError(f"{algorithm} was given {option}={value!r}; it is a sequence of {many} above 0")
    return tuple(number(algorithm, f"{option}[{at}]", item, above=0.0) for at, item in enumerate(value))
