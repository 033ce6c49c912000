"""The worker's side: load the evaluation once, then turn each task into an outcome."""

from __future__ import annotations

import importlib.util
import pickle
import sys
import time
import traceback
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

from nas.errors import Infeasible, NasError, RunnerError
from nas.runners.base import Outcome, Task

Evaluate = Callable[[Any], Mapping[str, float]]


@dataclass(frozen=True)
class Payload:
    """What a worker is told once: how to rebuild the space and the evaluation.

    Args:
        body: pickle of (space, evaluation), sent through a pipe from the driver that made it and never stored.
        modules: (name, path) of job files to import first, under the names that the pickle refers to.
        threads: torch threads of the worker.
    """

    body: bytes
    modules: tuple[tuple[str, str], ...]
    threads: int = 1

    @classmethod
    def pack(cls, space: Any, evaluate: Evaluate, threads: int, dumps: Callable[[Any], bytes]) -> Payload:
        """Make the payload; `dumps` is a pickler that the worker's `pickle.loads` reads.

        Raises:
            RunnerError: the space or the evaluation cannot be sent to another process.
            NasError: what a part of them says of itself when it cannot be sent.
        """
        try:
            body = dumps((space, evaluate))
        except NasError:
            raise
        except Exception as error:
            raise RunnerError(
                f"the evaluation cannot be sent to worker processes: {type(error).__name__}: {error}; "
                "define evaluators and model functions at the top level of a module, or use workers=0"
            ) from error
        # Only the job files that the pickle refers to: another one of this process may be gone by now.
        needed = [(name, path) for name, path in sorted(_job_modules.items()) if name.encode() in body]
        return cls(body, tuple(needed), threads)

    def unpack(self) -> tuple[Any, Evaluate]:
        """The space and the evaluation, in the worker."""
        for name, path in self.modules:
            import_file(name, path)
        space, evaluate = pickle.loads(self.body)
        torch = sys.modules.get("torch")
        if torch is not None:
            torch.set_num_threads(self.threads)
        return space, evaluate


# Job files imported by path in this process: module name to path.  Workers import the same files under the same names.
_job_modules: dict[str, str] = {}


def import_file(name: str, path: str) -> Any:
    """Import the Python file at `path` as module `name`, once; workers started later do the same."""
    if name in sys.modules:
        return sys.modules[name]
    spec = importlib.util.spec_from_file_location(name, path)
    if spec is None or spec.loader is None:
        raise RunnerError(f"{path!r} is not a Python file; give a file that ends in .py")
    module = importlib.util.module_from_spec(spec)
    sys.modules[name] = module
    try:
        spec.loader.exec_module(module)
    except BaseException:
        del sys.modules[name]
        raise
    _job_modules[name] = path
    return module


class Work:
    """Evaluates tasks one after the other."""

    def __init__(self, space: Any, evaluate: Evaluate, worker: str) -> None:
        self._space = space
        self._evaluate = evaluate
        self._worker = worker

    def __call__(self, task: Task) -> Outcome:
        """The outcome of one task; an exception of the evaluation is an outcome too."""
        started, clock = time.time(), time.perf_counter()

        def outcome(state: Any, measurements: Mapping[str, float], reason: str = "") -> Outcome:
            duration = time.perf_counter() - clock
            return Outcome(task.number, state, dict(measurements), reason, started, duration, self._worker)

        try:
            arch = self._space.rows_to_archs([task.row])[0]
            return outcome("COMPLETED", self._evaluate(arch))
        except Infeasible as infeasible:
            return outcome("INFEASIBLE", infeasible.measurements, infeasible.reason)
        except Exception as error:
            return outcome("FAILED", {}, describe(error))


def describe(error: BaseException) -> str:
    """One line for the record: kind, text, and the line of code it came from unless the text stands alone."""
    text = " ".join(str(error).split()) or "no message"
    if isinstance(error, NasError):
        return text
    frames = traceback.extract_tb(error.__traceback__)
    where = f" ({frames[-1].filename.rsplit('/', 1)[-1]}:{frames[-1].lineno} in {frames[-1].name})" if frames else ""
    return f"{type(error).__name__}: {text}{where}"
