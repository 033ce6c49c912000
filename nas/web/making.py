"""Files of networks: made by `nas extract` and `nas export` in a process of their own, kept with their hash, handed out whole."""

from __future__ import annotations

import contextlib
import hashlib
import json
import shutil
import subprocess
import threading
import zipfile
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from nas import files
from nas.errors import brief
from nas.store.database import shown as database_shown
from nas.web.commands import FORMATS, file_name, run, shown, words_for
from nas.web.problems import Problem

if TYPE_CHECKING:
    from nas.store import StudyRecord
    from nas.web.jobs import Jobs

_FOLDERS = ("extract", "pretrained", "elastic")
_LIMIT_S = 3600.0


@dataclass(frozen=True)
class Made:
    """A file that was asked for.

    Args:
        id: by which it is asked for again.
        study: name.
        trial: number; None for a whole front.
        format: of `FORMATS`.
        state: "making", "done" or "failed".
        said: what the command printed last.
        name: a file name for whoever downloads it.
        size: bytes, once it is done.
        sha256: of the content, once it is done.
    """

    id: str
    study: str
    trial: int | None
    format: str
    state: str
    said: str
    name: str
    size: int | None = None
    sha256: str | None = None

    def told(self) -> dict[str, Any]:
        """JSON-able."""
        return dict(vars(self))


class Making:
    """Makes files of the studies whose jobs are in the operator's folder.

    Args:
        jobs: of the folder.
        store: database URL.
    """

    def __init__(self, jobs: Jobs, store: str) -> None:
        self._jobs, self._store = jobs, store
        self._folder = jobs.state / "files"
        self._folder.mkdir(mode=0o700, exist_ok=True, parents=True)
        self._one = ThreadPoolExecutor(1, "nas-making")  # a network is as large as it is
        self._lock = threading.Lock()
        self._made: dict[str, Made] = {}

    def make(self, record: StudyRecord, trial: int | None, format: str) -> Made:
        """Begin to make a file, or find the one that was made.

        Raises:
            Problem: the study's job is not in the folder, or the format needs a trial.
        """
        if (trial is None) != (format == "elastic"):
            raise Problem(
                422, "elastic holds a whole front, every other format one trial; leave out the trial, or name one"
            )
        job = self._jobs.file_of(record)
        if job is None:
            command = shown(record.name, trial, format, database_shown(self._store))
            raise Problem(
                409,
                f"the job of study {record.name!r} is not in the server's folder; where it is, run: {command}",
                command=command,
            )
        position = record.position()
        state = [job.stat().st_mtime_ns, position.front_version if trial is None else 0]
        words = json.dumps([record.id, record.created, trial, format, state])
        identity = hashlib.sha256(words.encode()).hexdigest()[:32]
        with self._lock:
            known = self._known(identity)
            if known is None or known.state == "failed":
                name = file_name(record.name, trial, FORMATS[format])
                known = self._made[identity] = Made(identity, record.name, trial, format, "making", "", name)
                self._one.submit(self._work, known, job)
        return known

    def get(self, identity: str) -> Made:
        """A file that was asked for.

        Raises:
            Problem: there is none.
        """
        with self._lock:
            found = self._known(identity)
        if found is None:
            raise Problem(404, "there is no such file; ask for it with POST …/files")
        return found

    def content(self, identity: str) -> Path:
        """Where its content is.

        Raises:
            Problem: there is none, or it is not done.
        """
        made = self.get(identity)
        if made.state != "done":
            raise Problem(409, f"the file is not there: {made.said or 'it is being made'}")
        return self._folder / identity / "content"

    def close(self) -> None:
        """Begin nothing more."""
        self._one.shutdown(wait=False, cancel_futures=True)

    def _known(self, identity: str) -> Made | None:
        if identity in self._made:
            return self._made[identity]
        if not identity.isalnum() or len(identity) != 32:
            return None
        try:  # of an earlier run of the server
            kept = json.loads((self._folder / identity / "made.json").read_text(encoding="utf-8"))
            self._made[identity] = Made(**kept)
        except (OSError, ValueError, TypeError):
            return None
        return self._made[identity]

    def _work(self, made: Made, job: Path) -> None:
        folder = self._folder / made.id
        try:
            done = self._run(made, job, folder)
        except (OSError, subprocess.SubprocessError) as error:
            done = Made(made.id, made.study, made.trial, made.format, "failed", brief(error, 300), made.name)
        with self._lock:
            self._made[made.id] = done

    def _run(self, made: Made, job: Path, folder: Path) -> Made:
        with contextlib.suppress(FileNotFoundError):
            shutil.rmtree(folder)
        folder.mkdir(mode=0o700)
        output = folder / ("network" if made.format in _FOLDERS else f"network{FORMATS[made.format]}")
        words = words_for(made.study, made.trial, made.format, str(output))
        process = run(["nas", *words, "--job", str(job)], job, self._store, _LIMIT_S)
        said = (process.stdout + process.stderr).replace(str(output), made.name).replace(str(folder), "").strip()
        if process.returncode:
            lines = process.stderr.strip().splitlines() or [f"it ended with code {process.returncode}"]
            return Made(made.id, made.study, made.trial, made.format, "failed", brief(lines[-1], 500), made.name)
        content = folder / "content"
        if output.is_dir():
            _zip(output, content)
            shutil.rmtree(output)
        else:
            output.replace(content)
        with content.open("rb") as file:
            digest = hashlib.file_digest(file, "sha256").hexdigest()
        size = content.stat().st_size
        done = Made(made.id, made.study, made.trial, made.format, "done", brief(said, 1000), made.name, size, digest)
        files.write(folder / "made.json", json.dumps(done.told()))
        return done


def _zip(folder: Path, target: Path) -> None:
    """The folder's files, stored as they are: weights do not shrink."""
    with zipfile.ZipFile(target, "w", zipfile.ZIP_STORED) as archive:
        for path in sorted(folder.rglob("*")):
            if path.is_file():
                archive.write(path, path.relative_to(folder))
