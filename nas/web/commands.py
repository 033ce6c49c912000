"""Commands of `nas` that the server shows, and runs in processes of their own."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path
from shlex import join

#: What the file of a network in a format ends with.
FORMATS = {
    "extract": ".zip",
    "safetensors": ".safetensors",
    "onnx": ".onnx",
    "pt2": ".pt2",
    "pretrained": ".zip",
    "elastic": ".zip",
}


def file_name(study: str, trial: int | None, ending: str) -> str:
    """A name of a file that no file system objects to; `front` in the place of a trial where there is none."""
    safe = "".join(letter if letter.isascii() and (letter.isalnum() or letter in "-_.") else "-" for letter in study)
    return f"{safe.lstrip('.') or 'study'}-{'front' if trial is None else trial}{ending}"


def words_for(study: str, trial: int | None, format: str, output: str) -> list[str]:
    """The words of `nas extract` or `nas export` that take a trial's network, or a whole front, home."""
    verb = "extract" if format == "extract" else "export"
    which = [] if trial is None else [str(trial)]
    what = [] if format in ("extract", "elastic") else ["--format", format]
    return [verb, study, *which, "-o", output, *what]


def shown(study: str, trial: int | None, format: str, store: str) -> str:
    """The same as a line for a shell, with the database as it may be shown."""
    output = file_name(study, trial, FORMATS[format].removesuffix(".zip"))
    return join(["nas", *words_for(study, trial, format, output), "--store", store])


def run(words: Sequence[str], job: Path, store: str, limit_s: float) -> subprocess.CompletedProcess[str]:
    """Run a module of ours with words, beside a job and with its database, which may hold a password, in the environment.

    Raises:
        OSError: it cannot be started.
        subprocess.SubprocessError: it takes longer than `limit_s`.
    """
    return subprocess.run(
        [sys.executable, "-m", *words],
        check=False,
        capture_output=True,
        text=True,
        errors="replace",
        stdin=subprocess.DEVNULL,
        cwd=job.parent,
        env={**os.environ, "NAS_STORE": store},
        timeout=limit_s,
    )
