"""The worker's side: load the evaluation once, then turn each task into an outcome."""

from __future__ import annotations

import contextlib
import importlib.metadata
import importlib.util
import pickle
import platform
import sys
import sysconfig
import time
from collections import deque
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from types import ModuleType
from typing import Any, Protocol

from nas.carried import Folder, collecting
from nas.errors import NasError, RunnerError
from nas.failures import outcome
from nas.runners.base import BATCH_SECONDS, Outcome, Task

Evaluate = Callable[[Any], Mapping[str, float]]


@dataclass(frozen=True)
class Payload:
    """What a worker is told once: how to rebuild the space and the evaluation.

    Args:
        body: pickle of (space, evaluation), sent through a pipe from the driver that made it and never stored.
        modules: (name, path, text) of job files to import first, under the names that the pickle refers to; the text is for
            machines that do not have the file.
        threads: torch threads of the worker.
        versions: of what the driver has loaded and the pickle depends on.
        folders: that the pickle refers to by path and hash.
        paths: where the driver finds modules beside its installation, as the job's folder; a worker looks there last.
    """

    body: bytes
    modules: tuple[tuple[str, str, str], ...]
    threads: int = 1
    versions: tuple[tuple[str, str], ...] = ()
    folders: tuple[Folder, ...] = ()
    paths: tuple[str, ...] = ()

    @classmethod
    def pack(
        cls, space: Any, evaluate: Evaluate, threads: int, dumps: Callable[[Any], bytes] = pickle.dumps
    ) -> Payload:
        """Make the payload; `dumps` is a pickler for what Python's own cannot send, as functions without a name.

        Raises:
            RunnerError: the space or the evaluation cannot be sent to another process.
            NasError: what a part of them says of itself when it cannot be sent.
        """
        try:
            with collecting() as folders:
                body, modules = _pickled((space, evaluate), dumps)
        except NasError:
            raise
        except Exception as error:
            raise RunnerError(
                f"the evaluation cannot be sent to worker processes: {type(error).__name__}: {error}; "
                "define evaluators and model functions at the top level of a module, or use workers=0"
            ) from error
        texts = tuple((name, path, Path(path).read_text(encoding="utf-8")) for name, path in modules)
        return cls(body, texts, threads, _versions(), tuple(folders.values()), _paths())

    def unpack(self) -> tuple[Any, Evaluate]:
        """The space and the evaluation, in the worker.

        Raises:
            RunnerError: the worker runs other versions than the driver.
        """
        self._check_versions()
        sys.path += [path for path in self.paths if path not in sys.path and Path(path).is_dir()]
        for name, path, text in self.modules:
            if name == _MAIN and getattr(sys.modules["__main__"], "__file__", None) == path:
                continue  # Python's own worker processes have it already
            with _importing():
                if Path(path).is_file():
                    import_file(name, path)
                else:
                    _import_text(name, path, text)
            if name == _MAIN:
                sys.modules["__main__"] = sys.modules[_MAIN]
        space, evaluate = pickle.loads(self.body)
        torch = sys.modules.get("torch")
        if torch is not None:
            torch.set_num_threads(self.threads)
        return space, evaluate

    def _check_versions(self) -> None:
        here = {name: _version(name) for name, _ in self.versions}
        other = [(name, version) for name, version in self.versions if here[name] != version]
        if other:
            theirs, ours = (
                ", ".join(f"{name} {found}" for name, found in one) for one in ([(n, here[n]) for n, _ in other], other)
            )
            raise RunnerError(
                f"{platform.node()} has {theirs}, the driver {ours}; install the same versions on all machines"
            )


def _pickled(value: Any, dumps: Callable[[Any], bytes]) -> tuple[bytes, list[tuple[str, str]]]:
    """A pickle, and what its reader has to import by path: (name, path)."""
    script = getattr(sys.modules["__main__"], "__file__", None)
    by_name = True
    try:
        body = pickle.dumps(value, protocol=pickle.HIGHEST_PROTOCOL)
        if b"__main__" in body and script is None:  # what is typed at a prompt can only be sent as it is
            body, by_name = dumps(value), False
    except (pickle.PicklingError, AttributeError, TypeError):
        body, by_name = dumps(value), False
    # Only the job files that the pickle refers to: another one of this process may be gone by now.
    found = [(name, path) for name, path in sorted(_job_modules.items()) if name.encode() in body]
    if by_name and script is not None and b"__main__" in body:
        found.append((_MAIN, str(Path(script).resolve())))
    return body, found


_MAIN = "nas_main_script"  # the script that started the workers, in which `__name__` is this and not `__main__`


def _paths() -> tuple[str, ...]:
    """What somebody has added to the module search path."""
    library = sysconfig.get_path("stdlib")
    own = [path for path in sys.path if not path.startswith(library) and Path(path).name not in _INSTALLED]
    return tuple(str(Path(path).resolve()) for path in own)


_INSTALLED = ("site-packages", "dist-packages")


# What must be the same on both sides, if the driver has loaded it: pickles and results depend on it.
_SAME = ("nas", "torch", "pyglove")


def _versions() -> tuple[tuple[str, str], ...]:
    python = ("Python", ".".join(platform.python_version_tuple()[:2]))
    return (python, *((name, _version(name)) for name in _SAME if name in sys.modules))


def _version(name: str) -> str:
    """Of Python or of an installed package; local versions of one build (`+cpu`, `+cu130`) are the same to us."""
    if name == "Python":
        return ".".join(platform.python_version_tuple()[:2])
    loaded = getattr(sys.modules.get(name), "__version__", None)
    if loaded is None:
        try:
            loaded = importlib.metadata.version(_PACKAGES.get(name, name))
        except importlib.metadata.PackageNotFoundError:
            return "nothing of that name"
    return str(loaded).partition("+")[0]


_PACKAGES = {"nas": "supernas"}


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


def _import_text(name: str, path: str, text: str) -> None:
    """Import a job file whose machine is another one."""
    if name in sys.modules:
        return
    module = ModuleType(name)
    module.__file__ = path
    sys.modules[name] = module
    try:
        exec(compile(text, path, "exec"), module.__dict__)  # the driver's own job, as its pickle is
    except ModuleNotFoundError as error:
        del sys.modules[name]
        raise RunnerError(
            f"{platform.node()} has neither '{path}' nor the module {error.name!r} that it imports; send the job's folder along "
            "with 'nas submit', or have it on all machines"
        ) from error
    except BaseException:
        del sys.modules[name]
        raise


_is_importing = False


@contextlib.contextmanager
def _importing() -> Iterator[None]:
    global _is_importing  # noqa: PLW0603 (of the process, as its modules are)
    _is_importing = True
    try:
        yield
    finally:
        _is_importing = False


def check_not_importing() -> None:
    """Refuse to start workers where a worker imports the script that has started it.

    Raises:
        RunnerError: that is so.
    """
    if _is_importing:
        raise RunnerError(
            "a script must call study.run() under if __name__ == '__main__':, since its workers import it"
        )


class Work:
    """Evaluates tasks one after the other."""

    def __init__(self, space: Any, evaluate: Evaluate, worker: str) -> None:
        self._space = space
        self._evaluate = evaluate
        self._worker = worker

    def __call__(self, task: Task) -> Outcome:
        """The outcome of one task: whatever the evaluation raises is one too, unless a signal has raised it."""
        started, clock = time.time(), time.perf_counter()
        state, measured, reason = outcome(lambda: self._evaluation(task.far)(self._space.rows_to_archs([task.row])[0]))
        return Outcome(task.number, state, measured, reason, started, time.perf_counter() - clock, self._worker)

    def _evaluation(self, far: float | None) -> Evaluate:
        if far is None:
            return self._evaluate
        evaluation: Any = self._evaluate  # a study's: no other is told how far
        partial: Evaluate = evaluation.until(far)
        return partial


class Channel(Protocol):
    """What tasks come by and outcomes go by."""

    def poll(self, timeout: float) -> bool:
        """Whether there is something to receive."""

    def recv(self) -> list[Task]:
        """The next tasks; EOFError when there will be no more."""

    def send(self, outcomes: list[Outcome], /) -> None:
        """Answer."""


def answer(channel: Channel, work: Work, *, at_once: bool) -> None:
    """Evaluate what comes, oldest first, until the channel ends.

    Short evaluations share a message; one that took a while is sent as soon as it is there, `at_once` each of them.
    """
    queue: deque[Task] = deque()
    done: list[Outcome] = []
    unsent_s = 0.0
    while True:
        if not queue or channel.poll(0):
            queue.extend(channel.recv())
        outcome = work(queue.popleft())
        done.append(outcome)
        unsent_s += outcome.duration_s
        if not queue or at_once or unsent_s > BATCH_SECONDS / 3:
            channel.send(done)
            done, unsent_s = [], 0.0
