"""What can go wrong, in one sentence each: what was given, what was expected, what to do."""

from __future__ import annotations

import difflib
from collections.abc import Iterable, Mapping
from typing import Any


class NasError(Exception):
    """A mistake that the user can mend.  The command line prints the sentence alone and exits with 2."""


class SpaceError(NasError, ValueError):
    """A search space, or an arch of one, is not what it must be."""


class SupernetError(NasError, ValueError):
    """A supernet cannot hold, cut or rebuild what was asked of it."""


class LayoutError(SupernetError):
    """A declared layout does not fit the parameter it is declared for."""


class CheckpointError(SupernetError):
    """A checkpoint is missing, truncated, foreign, or not what was recorded."""


class TrainError(NasError, ValueError):
    """A training cannot start or go on."""


class DecodeError(NasError, ValueError):
    """Text cannot be generated as asked."""


class EvaluationError(NasError, ValueError):
    """An evaluation gave something that is not a measurement."""


class MetricError(NasError, ValueError):
    """A metric, objective or constraint is unknown or ill-formed."""


class FilterError(NasError, ValueError):
    """A `where` filter does not parse, or names a column that is not there.

    Attributes:
        place: the first character of the filter that is wrong, and the one behind the last; None where that is not known.
    """

    def __init__(self, message: str, place: tuple[int, int] | None = None) -> None:
        super().__init__(message)
        self.place = place


class StoreError(NasError):
    """The results database is missing, foreign, locked, newer than the code, or was asked the impossible."""


class DatabaseError(StoreError):
    """The results database cannot be read or written now, or what it holds is damaged: whatever was asked of it."""


class StudyExists(StoreError):
    """A study of that name is in the database already."""


class ReportError(StoreError):
    """A finished trial was reported again, with another result."""


class StudyError(NasError, ValueError):
    """A study cannot be built, resumed or run."""


class AlgorithmError(NasError, ValueError):
    """A search algorithm or one of its options is not what it must be."""


class DeviceError(NasError, ValueError):
    """A device is not there or cannot do what was asked."""


class PredictorError(NasError, ValueError):
    """A predictor cannot be fitted, loaded, or asked about an arch."""


class RunnerError(NasError):
    """Workers could not be started or kept."""


class JobError(NasError):
    """A job file does not import or builds no study."""


class DeployError(NasError, ValueError):
    """A front cannot be deployed, a budget cannot be met, or a module cannot be exported."""


class Infeasible(Exception):
    """Raised by an evaluator: this arch cannot be used, and why.  Not a failure: the search learns from it.

    Args:
        reason: one sentence, or the exception that says why.
        measurements: what was measured before it was found infeasible.
    """

    def __init__(self, reason: object, measurements: Mapping[str, float] | None = None) -> None:
        self.reason = text_of(reason)
        super().__init__(self.reason)
        self.measurements: dict[str, float] = dict(measurements or {})

    def __reduce__(self) -> tuple[type[Infeasible], tuple[str, dict[str, float]]]:
        return type(self), (self.reason, self.measurements)


LONGEST = 2_000
"""Characters of what a program said that are kept: some put a tensor or a whole log into a message."""


def brief(said: object, longest: int = LONGEST) -> str:
    """What a program said, usually an exception, as one line of bounded length; a longer one ends with its length.

    >>> brief("out of  memory\\n", 20)
    'out of memory'
    >>> brief("x" * 30, 24)
    'xxxxxxx… (30 characters)'
    """
    try:
        text = str(said)
    except BaseException:  # of somebody's class
        text = f"a {type(said).__name__} that has no text"
    line = " ".join(text[: 4 * longest].split())
    if len(line) <= longest and len(text) <= 4 * longest:
        return line
    end = f"… ({len(text):,} characters)"
    return line[: max(0, longest - len(end))] + end


def text_of(given: object) -> str:
    """`brief` of what says why, an exception with its kind.

    >>> text_of("too large"), text_of(MemoryError("does not fit"))
    ('too large', 'MemoryError: does not fit')
    """
    text = brief(given)
    if not isinstance(given, BaseException):
        return text
    kind = type(given).__name__
    return f"{kind}: {text}" if text else kind


def glimpse(value: Any, most: int = 60) -> str:
    """A value as an error shows it: what it looks like, cut, and its type.

    >>> glimpse("0.5"), glimpse(None)
    ("'0.5' (str)", 'None (NoneType)')
    """
    kind = type(value).__name__
    try:
        if isinstance(value, (str, bytes, list, tuple, dict, set)) and len(value) > LONGEST:
            return f"{len(value)} items ({kind})"
        text = " ".join(repr(value).split())
    except BaseException:  # a `__repr__` of a user's, or a number of too many digits
        return f"a value of type {kind}"
    return f"{text} ({kind})" if len(text) <= most else f"{text[: most - 1]}\u2026 ({kind})"


def suggest(name: str, options: Iterable[str]) -> str:
    """`"; did you mean 'x'?"` for the option closest to `name`, or the empty string when none is close.

    >>> suggest("acuracy", ["accuracy", "latency_ms"])
    "; did you mean 'accuracy'?"
    """
    close = difflib.get_close_matches(str(name), [str(option) for option in options], n=1, cutoff=0.6)
    return f"; did you mean {close[0]!r}?" if close else ""
