"""What this user ran before, kept in the user's own files.

A database may be shared, or come from somebody else: it is data, and what it says of jobs and commands is shown, never run.
So that `nas extract` need not be told the job again, `nas run` notes which job file this user ran for which study of which
database, and `nas measure` which command is which device, under `$XDG_STATE_HOME/supernas` (`~/.local/state/supernas`).
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
from pathlib import Path
from typing import Any, Literal

from nas import files

Kind = Literal["job", "command"]


def remember(kind: Kind, place: str, name: str, value: Any) -> None:
    """Note that this user gave a value for a study or device of a database; nothing where no file can be written.

    Args:
        kind: of what is noted.
        place: of the database, `Store.place`.
        name: of the study or the device.
        value: the job's reference, or the command's words.
    """
    note = {"kind": kind, "store": place, "name": name, "value": value, "folder": _folder()}
    try:
        path = _path(kind, place, name)
        path.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
        files.write(path, json.dumps(note))
    except (OSError, RuntimeError):
        pass  # a convenience: without it the next command asks


def recall(kind: Kind, place: str, name: str) -> Any:
    """What this user gave for a study or device of that database; None if nothing."""
    try:
        note = json.loads(_path(kind, place, name).read_text(encoding="utf-8"))
    except (OSError, RuntimeError, ValueError):
        return None
    known = {"kind": kind, "store": place, "name": name}
    if not isinstance(note, dict) or any(note.get(field) != value for field, value in known.items()):
        return None
    value = note.get("value")
    if kind == "job" and not os.path.isabs(str(value)) and note.get("folder") != _folder():
        return None  # a module by its name is another one elsewhere
    return value


def forget(kind: Kind, place: str, name: str) -> None:
    """Note nothing any more."""
    with contextlib.suppress(OSError, RuntimeError):
        _path(kind, place, name).unlink(missing_ok=True)


def _path(kind: Kind, place: str, name: str) -> Path:
    digest = hashlib.blake2b(json.dumps([kind, place, name]).encode(), digest_size=16).hexdigest()
    home = os.environ.get("XDG_STATE_HOME") or str(Path.home() / ".local" / "state")
    return Path(home) / "supernas" / f"{digest}.json"


def _folder() -> str:
    try:
        return str(Path.cwd())
    except OSError:
        return ""
