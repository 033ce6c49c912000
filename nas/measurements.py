"""What a measurement is: the one judge of metric names and values, whoever reports them.

`Study.run`, `Study.tell`, a dry run, Ray Tune, `pg.sample`, imports, caches and devices all ask here, so that what one of them
takes no other one refuses.  Imports neither numpy nor torch.
"""

from __future__ import annotations

import decimal
import math
import numbers
import re
from collections.abc import Mapping
from typing import Any

from nas.errors import glimpse

#: Columns of a trial beside its metrics.
COLUMNS = frozenset({"number", "state", "worker", "attempt", "duration_s", "violation", "reason", "choices", "key"})
#: What printed tables call a trial's number.  Databases of earlier versions may have a metric of that name.
TRIAL = "trial"
#: Names that no metric can have, since tables and filters use them for columns of a trial.
RESERVED = COLUMNS | {TRIAL}

_NAME = re.compile(r"[A-Za-z_][A-Za-z0-9_]{0,199}\Z")
_SHOWN = 60
_MUST = "it must be one finite number"


def name_fault(name: object, *, stored: bool = False) -> str | None:
    """Why `name` cannot name a metric (or one that is `stored`, maybe by an earlier version); None if it can."""
    if not isinstance(name, str) or not _NAME.match(name):
        shown = repr(name) if isinstance(name, str) and len(name) <= _SHOWN else glimpse(name)
        return f"metric name {shown} is not an identifier; use up to 200 of a-z, A-Z, 0-9 and '_', as in 'latency_ms'"
    reserved = COLUMNS if stored else RESERVED
    return f"metric name {name!r} is reserved for a column of trials; choose another" if name in reserved else None


def number(value: Any) -> float:
    """`value` as a plain number: a whole number as an int, any other real number as a float.

    Numbers of Python and numpy are taken, flags (as 0 and 1), and arrays and tensors of one element on any device.  A float
    of 64 bits or fewer keeps its value; wider ones, fractions and, in the store, whole numbers beyond 2**53 become the nearest
    64-bit float.

    Raises:
        ValueError: it is something else, is not finite, or is larger than a 64-bit float can be; with what came.
    """
    if type(value) is float and math.isfinite(value):
        return value
    try:
        return _converted(value)
    except _Fault:
        raise
    except OverflowError:
        raise _Fault(f"{glimpse(value)}, larger than a 64-bit float can be; {_MUST}") from None
    except Exception as error:  # of a foreign type, as a tensor without data
        raise _Fault(f"{glimpse(value)}, which gives no number ({type(error).__name__}); {_MUST}") from error


def usable(measurements: Mapping[str, Any]) -> tuple[dict[str, float], str | None]:
    """The measurements that are numbers under usable names, and what is wrong with the first that is not; None if all are."""
    values: dict[str, float] = {}
    fault: str | None = None
    for name, value in measurements.items():
        wrong = name_fault(name)
        if wrong is None:
            try:
                values[name] = number(value)
                continue
            except ValueError as error:
                wrong = f"metric {name!r} is {error}"
        fault = fault or wrong
    return values, fault


def heading(name: str) -> str:
    """What a table calls a metric beside the column `trial`, the trials' numbers: its name, or else as filters spell it."""
    return f'measurements["{name}"]' if name == TRIAL else name


class _Fault(ValueError):
    """Says what came, and what must come."""


def _converted(value: Any) -> float:
    if isinstance(value, numbers.Integral) and not _is_time(value):
        float(value)  # raises where it is too large
        return int(value)
    if isinstance(value, (numbers.Real, decimal.Decimal)) and not _is_time(value):
        return _finite(float(value), value)
    if isinstance(value, (str, bytes, numbers.Complex)) or _is_time(value):
        raise _Fault(f"{glimpse(value)}; {_MUST}")
    if hasattr(value, "item") and hasattr(value, "shape"):
        return _element(value)
    if hasattr(value, "__float__"):
        return _finite(float(value), value)
    raise _Fault(f"{glimpse(value)}; {_MUST}")


def _finite(found: float, value: Any) -> float:
    if math.isfinite(found):
        return found
    raise _Fault(f"{found if isinstance(value, float) else glimpse(value)}; {_MUST}")


def _is_time(value: Any) -> bool:
    """A duration or a date of numpy's: a whole number to Python, and no measurement without its unit."""
    return getattr(getattr(value, "dtype", None), "kind", "") in ("m", "M")


def _element(value: Any) -> float:
    """The only element of an array or a tensor."""
    if math.prod(value.shape) != 1:
        raise _Fault(f"a {type(value).__name__} of shape {tuple(value.shape)}; {_MUST}")
    mask = getattr(value, "mask", False)
    if not callable(mask) and bool(mask):  # numpy would give what is under the mask
        raise _Fault(f"{glimpse(value)}; {_MUST}")
    found = value.item()
    if hasattr(found, "shape"):  # an array of objects that holds another one
        raise _Fault(f"{glimpse(value)}; {_MUST}")
    return _converted(found)


def cell(value: Any) -> float | int | None:
    """A number of a table as JSON has it: whole ones without a fraction, None where there is none."""
    try:
        found = float(value)
    except (TypeError, ValueError):  # None, pandas.NA
        return None
    if not math.isfinite(found):
        return None
    return int(value) if isinstance(value, int) or (found.is_integer() and abs(found) < 2**53) else found
