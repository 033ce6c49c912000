"""Reading back what was written, and nothing else: JSON with a hash of itself, files with the hash that a manifest records.

A sealed file is a JSON object that begins with the member "sealed" and ends with a line that holds the SHA-256 of all bytes
before it.  Either of the two says that the file is sealed, so that one that is damaged is not taken for an older one without.
"""

from __future__ import annotations

import hashlib
import json
import os
import re
import warnings
from collections.abc import Mapping
from pathlib import Path, PureWindowsPath
from typing import Any

_FIRST = b'{\n "sealed"'
_LAST = re.compile(rb',\n "sha256": "([0-9a-f]{64})"\n\}\n\Z')


_DIFFERS = "it is not what was saved (its hash differs)"


class Damaged(ValueError):
    """A file is missing, or is not what was written; `str` says which, for a sentence that names the file."""


def seal(content: Mapping[str, Any], indent: int | None = None) -> bytes:
    """`content` as sealed JSON, a member a line; `indent` also breaks what the members hold into lines."""
    assert not {"sealed", "sha256"} & set(content)
    members = {"sealed": True, **content}.items()
    body = "{\n" + ",\n".join(f" {json.dumps(name)}: {json.dumps(value, indent=indent)}" for name, value in members)
    digest = hashlib.sha256(body.encode()).hexdigest()
    return f'{body},\n "sha256": "{digest}"\n}}\n'.encode()


def unseal(text: bytes) -> tuple[Any, bool]:
    """What a file holds, and whether it is sealed: one that an earlier version wrote is not, see `warn`.

    Raises:
        Damaged: it is no JSON, or not what was sealed.
    """
    last = _LAST.search(text)
    if last is None and not text.startswith(_FIRST):
        content = _parsed(text)
        if isinstance(content, dict) and "sealed" in content:
            raise Damaged(_DIFFERS)  # sealed once, and written by something else since
        return content, False
    if last is None or hashlib.sha256(text[: last.start()]).hexdigest().encode() != last[1]:
        raise Damaged(_DIFFERS)
    content = _parsed(text)
    return {key: value for key, value in content.items() if key not in ("sealed", "sha256")}, True


def warn(place: str | Path) -> None:
    """Say that what an earlier version wrote is read without a check."""
    warnings.warn(
        f"{str(place)!r} was written by an earlier version of supernas, without hashes of all its files: damage to them would "
        "not be noticed; save it again with this version",
        stacklevel=2,
    )


def _parsed(text: bytes) -> Any:
    try:
        return json.loads(text)
    except (ValueError, RecursionError) as error:
        raise Damaged(f"{type(error).__name__}: {error}") from error


def digest(file: str | Path) -> str:
    """SHA-256 of a file."""
    with open(file, "rb") as stream:
        return hashlib.file_digest(stream, "sha256").hexdigest()


def verify(file: Path, sha256: str) -> None:
    """Compare a file with the hash that was recorded of it.

    Raises:
        Damaged: it is missing, cannot be read, or is another.
    """
    try:
        found = digest(file)
    except OSError as error:
        raise Damaged("it is missing" if isinstance(error, FileNotFoundError) else f"{error.strerror}") from error
    if found != sha256:
        raise Damaged(_DIFFERS)


def inside(folder: Path, name: object) -> Path:
    """The file that a manifest in `folder` calls `name`.

    Raises:
        Damaged: the name leads, or is a link that leads, out of the folder.
    """
    plain = (
        isinstance(name, str)
        and name
        and not any(character in name for character in "\\\0:")
        and not PureWindowsPath(name).anchor
        and not any(part in ("", ".", "..") for part in name.split("/"))
    )
    if plain:
        path = folder / str(name)
        home = os.path.realpath(folder)
        if os.path.realpath(path).startswith(os.path.join(home, "")):
            return path
    raise Damaged(f"its name {name!r} leads out of the folder")
