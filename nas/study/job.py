"""A job: a Python file, or `package.module:name`, that builds a `Study`."""

from __future__ import annotations

import hashlib
import importlib
import importlib.util
import sys
import traceback
from pathlib import Path
from typing import TYPE_CHECKING, Any

from nas.errors import JobError, NasError, brief, suggest
from nas.failures import interrupts

if TYPE_CHECKING:
    from nas.study import Study


def load_job(reference: str) -> Study:
    """The study that a job builds.

    Args:
        reference: `path/to/job.py`, `path/to/job.py:name`, `package.module` or `package.module:name`; `name` is `study` unless
            given, and is a `Study` or a function without arguments that returns one.

    Raises:
        JobError: the job is not there, does not import, or builds no study.
    """
    module, target, place, name = load_module(reference)
    study = _study_of(module, target, name or "study")
    study.job = f"{place}:{name}" if name else place
    return study


def load_module(reference: str) -> tuple[Any, str, str, str]:
    """What a job defines: the module, the words for it, where it is in any folder, and the name that was given, or "".

    Raises:
        JobError: the job is not there, or does not import.
    """
    target, _, name = reference.partition(":")
    path = Path(target)
    if target.endswith(".py") or path.exists():
        return _from_file(path), target, str(path.resolve()), name
    return _from_module(target), target, target, name


def _from_file(path: Path) -> Any:
    if not path.is_file():
        near = suggest(path.name, [entry.name for entry in path.parent.glob("*.py")]) if path.parent.is_dir() else ""
        raise JobError(f"job {str(path)!r} does not exist{near}; a job is a Python file that builds a nas.Study")
    from nas.runners import import_file

    resolved = path.resolve()
    if str(resolved.parent) not in sys.path:  # as Python does for a script: it may import its neighbours
        sys.path.insert(0, str(resolved.parent))
    digest = hashlib.blake2b(str(resolved).encode(), digest_size=4).hexdigest()
    with interrupts() as is_interrupt:
        try:
            return import_file(f"nas_job_{resolved.stem}_{digest}", str(resolved))
        except BaseException as error:
            if is_interrupt(error):
                raise
            raise _does_not_import(str(path), error) from error


def _from_module(name: str) -> Any:
    if str(Path.cwd()) not in sys.path:
        sys.path.insert(0, str(Path.cwd()))
    try:
        return importlib.import_module(name)
    except ModuleNotFoundError as error:
        if error.name and name.startswith(error.name):
            raise JobError(
                f"job {name!r} is neither a file nor a module; give path/to/job.py or package.module:name"
            ) from None
        raise _does_not_import(name, error) from error
    except (Exception, SystemExit) as error:
        raise _does_not_import(name, error) from error


def _study_of(module: Any, where: str, name: str) -> Study:
    from nas.study import Study

    if not hasattr(module, name):
        near = suggest(name, vars(module))
        raise JobError(
            f"job {where!r} defines no {name!r}{near}; assign a nas.Study to it, or let it be a function that returns one"
        )
    value = getattr(module, name)
    if callable(value) and not isinstance(value, Study):
        with interrupts() as is_interrupt:
            try:
                value = value()
            except NasError:
                raise
            except BaseException as error:
                if is_interrupt(error):
                    raise
                raise JobError(f"job {where!r} cannot build its study: {_one_line(error)}") from error
    if not isinstance(value, Study):
        raise JobError(
            f"{name!r} of job {where!r} is a {type(value).__name__}, no nas.Study; build one, or name another: {where}:NAME"
        )
    return value


def _does_not_import(where: str, error: BaseException) -> JobError:
    if isinstance(error, NasError):
        return JobError(str(error))
    return JobError(f"job {where!r} does not import: {_one_line(error)}")


def _one_line(error: BaseException) -> str:
    """Kind, text and the last line of the user's own code."""
    if isinstance(error, SyntaxError):
        return f"SyntaxError: {error.msg} (line {error.lineno})"
    frames = [frame for frame in traceback.extract_tb(error.__traceback__) if "importlib" not in frame.filename]
    where = f" ({Path(frames[-1].filename).name}:{frames[-1].lineno})" if frames else ""
    return f"{type(error).__name__}: {brief(error) or 'no message'}{where}"
