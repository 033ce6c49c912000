"""One evaluation for all archs that compute the same, shared by all workers of a machine and by later runs.

Imports no torch: the name of what an arch computes comes from any function, such as `nas.evaluate.Function`.
"""

from __future__ import annotations

import fcntl
import functools
import hashlib
import json
import os
import warnings
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from types import NoneType
from typing import TYPE_CHECKING, Any

from nas import checking, files, sealed
from nas.errors import EvaluationError, Infeasible
from nas.evaluate.base import Evaluator, EvaluatorLike, adapted, identity_of
from nas.evaluate.compose import checked
from nas.failures import verdict
from nas.identity import identity
from nas.measurements import usable

if TYPE_CHECKING:
    from nas.space import Arch, Space

NAMES = 10_000  # of archs that are remembered


class Once(Evaluator):
    """`evaluator`, run once for each name that `function` gives: equal archs get the first one's measurements.

    The metric `reused` says 1 for an arch that was answered so, 0 for one that was evaluated; it is stored with the trial, and
    `nas show` counts it.  Two workers that meet the same function at the same time evaluate it once: the second waits.  Answers
    that an evaluator refused (`Infeasible`) are shared too, failures are not.

    Wrap what depends on the function alone, such as the accuracy of archs that are trained; parameters and latency do not.
    Several evaluators are shared as one `Evaluation`.

    >>> nas.Once(train_and_test, nas.Function(nas.digits()), "cache")  # doctest: +SKIP

    Args:
        evaluator: what is expensive.
        function: arch -> name of what it computes.
        folder: where measurements are kept, made when it is needed; on a file system that all workers see.

    Raises:
        EvaluationError: something that cannot be called, an evaluator that measures time, or one that is shared already.
    """

    @checking.checked(EvaluationError)
    def __init__(self, evaluator: EvaluatorLike, function: Callable[[Arch], str], folder: Path | str) -> None:
        for what, given in (("evaluator", evaluator), ("function", function)):
            if not callable(given):
                raise EvaluationError(f"{what} {given!r} cannot be called; give a function of an arch")
        self.evaluator = adapted(evaluator)
        if self.evaluator.exclusive:
            raise EvaluationError(
                f"{type(evaluator).__name__} measures time, which archs that compute the same do not share; leave it outside"
            )
        if isinstance(evaluator, Once):
            raise EvaluationError("the evaluator is shared already; wrap it once")
        self.function, self.folder = function, Path(folder)
        self.cost = self.evaluator.cost
        own = self.evaluator.metrics
        self.metrics = None if own is None else (*own, "reused")
        self._names: dict[str, str] = {}  # by arch key: a search asks for the same candidates again and again

    def __call__(self, arch: Arch) -> dict[str, float]:
        """The measurements of `arch` or of one that computes the same, and `reused`.

        Raises:
            Infeasible: the evaluator said so, of this arch or of that one.
            EvaluationError: the folder holds something else than measurements.
        """
        path = self._path(arch)
        with _alone(path.with_suffix(".lock")):
            found = _read(path)
            reused = found is not None
            if found is None:
                found = self._evaluate(arch)
                _keep(path, found)
        measurements = {**found["measurements"], "reused": int(reused)}
        if found["infeasible"] is not None:
            raise Infeasible(found["infeasible"], measurements)
        return measurements

    def known(self, arch: Arch) -> dict[str, float]:
        """What is remembered of `arch` or one that computes the same, without evaluating it; `{}` if nothing is.

        A search that asks before it proposes need not propose what repeats another arch.

        Raises:
            EvaluationError: the folder holds something else than measurements.
        """
        found = _read(self._path(arch))
        return {} if found is None or found["infeasible"] is not None else dict(found["measurements"])

    def check(self, space: Space) -> None:
        """Whether the evaluator and the function can evaluate archs of `space`."""
        self.evaluator.check(space)
        if hasattr(self.function, "check"):
            self.function.check(space)
        self.function(space.smallest)

    def describe(self) -> dict[str, Any]:
        """JSON-able: the evaluator and the function; the folder may be another on another machine."""
        return {"name": "Once", "evaluator": identity_of(self.evaluator), "function": _described(self.function)}

    def inner(self) -> Sequence[Evaluator]:
        """What is run once."""
        return (self.evaluator,)

    def bound(self, source: Any, task: Any) -> Once:
        """As the evaluator is."""
        evaluator = self.evaluator.bound(source, task)
        return self if evaluator is self.evaluator else Once(evaluator, self.function, self.folder)

    @functools.cached_property
    def _what(self) -> dict[str, Any]:
        """`describe` as it was before an evaluation changed what the evaluator keeps."""
        return self.describe()

    def __getstate__(self) -> dict[str, Any]:
        return {**vars(self), "_what": self._what}

    def _evaluate(self, arch: Arch) -> dict[str, Any]:
        try:
            given = self.evaluator(arch)
        except Infeasible as reason:
            _, measured, why = verdict(reason)
            return {"infeasible": why, "measurements": measured}
        return {"infeasible": None, "measurements": checked(self.evaluator, given)}

    def _path(self, arch: Arch) -> Path:
        """Where the measurements of the function of `arch` are: another evaluator, function or space has another folder."""
        # A function of the outputs names the same thing in every space; any other may go by labels, which mean what a space says.
        where = [] if getattr(self.function, "names_outputs", False) else [arch.space.fingerprint]
        who = json.dumps([self._what, arch.space.name, arch.space.version, *where], sort_keys=True, default=str)
        folder = self.folder / hashlib.blake2b(who.encode(), digest_size=8).hexdigest()
        try:
            folder.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            if not files.is_full(error):
                raise EvaluationError(
                    f"'{folder}' cannot be made ({files.why(error)}); choose another folder"
                ) from error
        return folder / f"{self._name(arch)}.json"

    def _name(self, arch: Arch) -> str:
        if arch.key not in self._names:
            if len(self._names) >= NAMES:
                self._names.clear()
            self._names[arch.key] = hashlib.blake2b(str(self.function(arch)).encode(), digest_size=16).hexdigest()
        return self._names[arch.key]


@contextmanager
def _alone(path: Path) -> Iterator[None]:
    """Inside the block no other process or thread holds `path`, but on a full disk; the kernel lets go when a process dies."""
    try:
        descriptor = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
    except OSError as error:
        # Of a folder that could not be made: `_path`.
        if not files.is_full(error) and not isinstance(error, FileNotFoundError):
            raise EvaluationError(f"'{path}' cannot be written ({files.why(error)}); choose another folder") from error
        yield
        return
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX)
        yield
    finally:
        os.close(descriptor)


def _read(path: Path) -> dict[str, Any] | None:
    try:
        found, is_sealed = sealed.unseal(path.read_bytes())
        why, measured = found["infeasible"], found["measurements"]
        whole = len(found) == 2 and isinstance(why, (str, NoneType)) and usable(measured)[1] is None
        whole &= all(type(value) in (int, float) for value in measured.values())
    except FileNotFoundError:
        return None
    except (ValueError, KeyError, TypeError, AttributeError):
        whole = False
    if not whole:
        raise EvaluationError(
            f"'{path}' does not hold the measurements of an arch; delete it, and it is evaluated again"
        )
    if not is_sealed:
        sealed.warn(path.parent)
    return dict(found)


def _keep(path: Path, found: dict[str, Any]) -> None:
    """Share what was found; on a full disk it is still what was measured, and is not lost for that."""
    try:
        files.write(path, sealed.seal(found))
    except OSError as error:
        if not files.is_full(error) and not isinstance(error, FileNotFoundError):
            raise EvaluationError(f"'{path}' cannot be written ({files.why(error)}); choose another folder") from error
        warnings.warn(
            f"'{path.parent}' has no room for measurements, which are not shared until there is some", stacklevel=2
        )


def _described(one: Any) -> Any:
    return one.describe() if hasattr(one, "describe") else identity(one)
