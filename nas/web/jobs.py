"""Jobs of the operator's folder: started, stopped and followed by name.  What runs outlives the server, which finds it again.

A job's state is a file beside its log, in `FOLDER/.serve` or a folder of its own.  A name from a request is only ever compared
with the names of the folder's files.
"""

from __future__ import annotations

import contextlib
import json
import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from nas import files
from nas.errors import JobError, brief, suggest
from nas.runners import guard
from nas.web.problems import Problem

if TYPE_CHECKING:
    from nas.store import StudyRecord

STATE = ".serve"
MOST_LOG = 256 * 1024
"""Bytes of a log in one answer."""


@dataclass(frozen=True)
class Job:
    """A job of the folder and what became of it.

    Args:
        name: the file's, without `.py`.
        state: "idle" (never run here), "running", "stopping", "ended" (with code 0), "stopped" (by a signal) or "failed".
        options: of the last start.
        started: seconds since the epoch.
        ended: likewise.
        code: exit code of the last run, where it is known.
        log_bytes: length of its log.
    """

    name: str
    state: str
    options: Mapping[str, Any]
    started: float | None
    ended: float | None
    code: int | None
    log_bytes: int


class Jobs:
    """The jobs of a folder.

    Args:
        folder: with job files at its top.
        store: database URL for the jobs.
        state: folder for logs and states; `.serve` in the folder unless given.

    Raises:
        JobError: it is no folder, or cannot be written.
    """

    def __init__(self, folder: Path, store: str, state: Path | None = None) -> None:
        if not folder.is_dir():
            raise JobError(f"jobs folder {str(folder)!r} is none; give a folder with job files")
        self.folder = folder.resolve()
        self._store = store
        self.state = (state or self.folder / STATE).resolve()
        self._lock = threading.Lock()
        try:
            self.state.mkdir(mode=0o700, exist_ok=True, parents=True)
        except OSError as error:
            raise JobError(
                f"folder {str(self.state)!r} cannot be made ({error.strerror}); logs are kept in it, so give another --state"
            ) from None

    # -- what there is -------------------------------------------------------------------------------------------------

    def names(self) -> list[str]:
        """Names of the job files, sorted: those at the folder's top that can be names."""
        found = [path for path in self.folder.glob("*.py") if path.is_file() and not path.name.startswith((".", "_"))]
        return sorted(path.stem for path in found if path.resolve().parent == self.folder and path.stem.isprintable())

    def file(self, name: str) -> Path:
        """The file of a job.

        Raises:
            Problem: there is none of that name.
        """
        names = self.names()
        if name not in names:
            have = f"there are {', '.join(names[:20])}" if names else "its folder has none"
            raise Problem(404, f"there is no job {brief(repr(name), 120)}{suggest(name, names)}; {have}")
        return self.folder / f"{name}.py"

    def file_of(self, record: StudyRecord) -> Path | None:
        """The job file that a study says it was declared by, if it is one of the folder's; the study's word alone opens none."""
        said = str(record.settings.get("job") or "").partition(".py:")[0].removesuffix(".py") + ".py"
        return next((path for name in self.names() if str(path := self.folder / f"{name}.py") == said), None)

    def all(self) -> list[Job]:
        """Every job."""
        return [self.get(name) for name in self.names()]

    def get(self, name: str) -> Job:
        """A job and what became of it.

        Raises:
            Problem: there is none of that name.
        """
        self.file(name)
        kept = self._read(name)
        log = self.state / f"{name}.log"
        size = log.stat().st_size if log.exists() else 0
        if kept is None:
            return Job(name, "idle", {}, None, None, None, size)
        options, started = kept.get("options", {}), kept.get("started")
        if self._lives(kept):
            state = "stopping" if kept.get("stopping") else "running"
            return Job(name, state, options, started, None, None, size)
        ended = self._ended(name)
        code, when = (None, None) if ended is None else (ended.get("code"), ended.get("ended"))
        state = "ended" if code == 0 else "stopped" if code in (130, 143, 129) or kept.get("stopping") else "failed"
        return Job(name, state, options, started, when, code, size)

    # -- starting and stopping -----------------------------------------------------------------------------------------

    def start(self, name: str, options: Mapping[str, Any]) -> Job:
        """Start a job, or go on with it: `nas run` with these options, in a session of its own.

        Args:
            name: of the job.
            options: `trials`, `workers`, `time_limit_s`, `address` (host:port of a Ray head).

        Raises:
            Problem: there is none, it runs already, or no process can be started.
        """
        path = self.file(name)
        with self._lock:
            kept = self._read(name)
            if kept is not None and self._lives(kept):
                raise Problem(409, f"job {name!r} runs already, since {_clock(kept.get('started'))}; stop it first")
            words = [str(path), "--workers", str(options.get("workers", 2))]
            for option, word in (("trials", "--trials"), ("time_limit_s", "--time-limit"), ("address", "--address")):
                if options.get(option) is not None:
                    words += [word, str(options[option])]
            end = self.state / f"{name}.end"
            end.unlink(missing_ok=True)
            try:
                with (self.state / f"{name}.log").open("ab") as log:
                    log.write(f"\n# {_clock(time.time())} nas run {path.name} {' '.join(words[1:])}\n".encode())
                    log.flush()
                    child = subprocess.Popen(
                        [sys.executable, "-m", "nas.cli.launch", str(end), "run", *words],
                        stdin=subprocess.DEVNULL,
                        stdout=log,
                        stderr=subprocess.STDOUT,
                        cwd=self.folder,
                        env={**os.environ, "NAS_STORE": self._store, "PYTHONUNBUFFERED": "1"},
                        start_new_session=True,
                    )
            except OSError as error:
                raise Problem(503, f"job {name!r} cannot be started: {error.strerror or error}") from None
            threading.Thread(target=child.wait, daemon=True).start()  # nobody else takes note of its end
            given = {option: value for option, value in options.items() if value is not None}
            process = guard.identity(child.pid)
            try:
                self._write(name, {"process": process, "options": given, "started": time.time(), "stopping": False})
            except OSError as error:  # nobody would find it again
                child.kill()
                raise Problem(503, f"job {name!r} cannot be started: {error.strerror or error}") from None
        return self.get(name)

    def stop(self, name: str) -> Job:
        """Stop a job as Ctrl-C does: it gives back what it had begun.  A second time it is not waited for.

        Raises:
            Problem: there is none, or it does not run.
        """
        self.file(name)
        with self._lock:
            kept = self._read(name)
            if kept is None or not self._lives(kept):
                raise Problem(409, f"job {name!r} does not run; start it first")
            pid = int(str(kept["process"]).partition("/")[0])
            self._write(name, {**kept, "stopping": True})
            with contextlib.suppress(OSError):  # it has just ended
                os.kill(pid, signal.SIGTERM)
        return self.get(name)

    def log(self, name: str, after: int) -> tuple[str, int, int]:
        """A part of a job's log: the text, the place behind it, and the log's length, in bytes.

        Args:
            name: of the job.
            after: where it begins; a negative one counts from the end.

        Raises:
            Problem: there is no such job.
        """
        self.file(name)
        path = self.state / f"{name}.log"
        if not path.exists():
            return "", 0, 0
        with path.open("rb") as file:
            size = file.seek(0, os.SEEK_END)
            begin = max(0, size + after) if after < 0 else min(after, size)
            file.seek(begin)
            content = file.read(MOST_LOG)
        return content.decode("utf-8", "replace"), begin + len(content), size

    # -- inside --------------------------------------------------------------------------------------------------------

    def _lives(self, kept: Mapping[str, Any]) -> bool:
        pid, _, start = str(kept.get("process", "")).partition("/")
        return pid.isdecimal() and start != "" and guard.start_of(int(pid)) == start

    def _read(self, name: str) -> dict[str, Any] | None:
        return _json(self.state / f"{name}.json")

    def _ended(self, name: str) -> dict[str, Any] | None:
        return _json(self.state / f"{name}.end")

    def _write(self, name: str, kept: Mapping[str, Any]) -> None:
        files.write(self.state / f"{name}.json", json.dumps(dict(kept)))


def _json(path: Path) -> dict[str, Any] | None:
    try:
        found = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return None
    return found if isinstance(found, dict) else None


def _clock(seconds: Any) -> str:
    return (
        time.strftime("%Y-%m-%d %H:%M:%S", time.localtime(seconds))
        if isinstance(seconds, (int, float))
        else "a while ago"
    )
