"""What callers give, checked by type and range, with the argument's name in the sentence.

Numbers come from numpy, pandas and torch as often as from Python: scalars of these, and arrays without dimensions, are taken for
the Python number that they hold.  A bool is no number, and a float with a whole value is no whole number.
"""

from __future__ import annotations

from typing import Any


def plain_scalar(value: Any) -> Any:
    """The bool, int, float or str in a scalar of numpy's, or in an array or tensor without dimensions; others as they are.

    The value is exact: `np.float32(0.1)` is 0.10000000149011612, which is not 0.1.

    >>> import numpy as np
    >>> plain_scalar(np.int64(8)), plain_scalar(np.float32(0.5)), plain_scalar("8")
    (8, 0.5, '8')
    """
    if type(value) in (bool, int, float, str) or getattr(value, "ndim", None) != 0 or not hasattr(value, "item"):
        return value
    try:
        found = value.item()
    except (RuntimeError, TypeError, ValueError):  # a tensor on the meta device holds no number
        return value
    if type(found) in (bool, int, float, str):
        return found
    # np.longdouble is its own item; dates, complex and structured values are none of ours.
    return float(found) if type(found).__name__ == "longdouble" else value


def is_number(value: Any) -> bool:
    """Whether `value` is an int or a float, and no bool."""
    return isinstance(value, int | float) and not isinstance(value, bool)
