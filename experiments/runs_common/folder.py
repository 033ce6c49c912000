"""Folders of runs: a file for each, whole or not at all, all of them of the same settings.

An experiment goes on in its folder where it stopped.  A folder whose runs are of other settings or other data is refused, since
figures would be means over both.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import sys
import tempfile
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch

from nas import files

CHOOSING = frozenset(
    {"runs", "report", "smoke", "seeds", "first_seed", "parts", "ways", "budgets", "models", "sizes", "searches"}
)
"""Options that say which runs are made, and change none of them."""
PART = 2**20  # bytes that are read at once


def kept(file: Path, make: Callable[[], Mapping[str, Any]]) -> dict[str, Any]:
    """What an earlier run left in a JSON file, whole or not at all; else what `make` measures now."""
    if not file.exists():
        file.parent.mkdir(parents=True, exist_ok=True)
        files.write(file, json.dumps(make()))
    found: dict[str, Any] = json.loads(file.read_text())
    return found


def by_seed(folder: Path, way: str) -> dict[int, dict[str, Any]]:
    """What was kept of a way, in files called "<way>, <seed>.json"; seeds ascend."""
    named = [(*file.stem.rpartition(", ")[::2], file) for file in folder.glob("*, *.json")]  # a way may have a comma
    return dict(sorted((int(seed), json.loads(file.read_text())) for name, seed, file in named if name == way))


@contextmanager
def opened(
    options: argparse.Namespace,
    words: argparse.ArgumentParser,
    *,
    needs: Sequence[str] = (),
    free: Sequence[str] = (),
    optional: bool = False,
) -> Iterator[Path]:
    """The folder of the runs, on one thread; one that is thrown away with --smoke.

    Args:
        options: parsed, with runs=, smoke= and perhaps report=.
        words: tell what is missing.
        needs: further options without which only --smoke and --report work.
        free: options beside those of `CHOOSING` that choose runs and change none.
        optional: without --runs the folder is one that is thrown away, too.
    """
    torch.set_num_threads(1)
    if options.smoke or (optional and options.runs is None):
        with tempfile.TemporaryDirectory() as folder:
            yield Path(folder)
        return
    report = getattr(options, "report", False)
    missing = [] if report else [name for name in needs if getattr(options, name) is None]
    missing += ["runs"] if options.runs is None else []
    if missing:
        words.error(f"{' and '.join(f'--{name}' for name in missing)} needed (or --smoke); see README.md")
    options.runs.mkdir(parents=True, exist_ok=True)
    if not report and (why := other_settings(options, options.runs, free)):
        words.error(why)
    yield options.runs


def carry_out(
    everything: Callable[[argparse.Namespace, Path], None],
    options: argparse.Namespace,
    words: argparse.ArgumentParser,
    needs: Sequence[str] = (),
    free: Sequence[str] = (),
) -> None:
    """Run an experiment in the folder of its runs; arguments as of `opened`."""
    with opened(options, words, needs=needs, free=free) as folder:
        everything(options, folder)


def other_settings(options: argparse.Namespace, folder: Path, free: Sequence[str] = ()) -> str:
    """What differs from the settings of the runs that the folder has, as a sentence; they are noted where none are."""
    now = {
        name: _told(value) for name, value in sorted(vars(options).items()) if name not in CHOOSING and name not in free
    }
    script = Path(sys.argv[0]).resolve()
    file = folder / f"{script.parent.name}-{script.stem}.settings"
    before: dict[str, Any] = json.loads(file.read_text()) if file.exists() else {}
    differs = [name for name in now if name in before and before[name] != now[name]]
    if differs:
        had = ", ".join(f"--{name} {before[name]}" for name in differs)
        asked = ", ".join(f"--{name} {now[name]}" for name in differs)
        return f"{folder} has runs with {had}, and {asked} is asked for; give another --runs FOLDER"
    if before != {**before, **now}:
        files.write(file, json.dumps({**before, **now}, indent=1) + "\n")
    return ""


def _told(value: Any) -> Any:
    """JSON-able; of a file or folder what it holds, wherever it lies."""
    if isinstance(value, Path) or (isinstance(value, str) and Path(value).exists()):
        return _content(Path(value))
    return json.loads(json.dumps(value, default=str))


def _content(path: Path) -> str:
    """Of a file a digest of its bytes, of a folder one of its files' names and sizes."""
    found = hashlib.blake2b(digest_size=8)
    if path.is_dir():
        for one in sorted(path.rglob("*")):
            if one.is_file():
                found.update(f"{one.relative_to(path)} {one.stat().st_size}\n".encode())
    elif path.is_file():
        with path.open("rb") as opened_file:
            while part := opened_file.read(PART):
                found.update(part)
    else:
        return f"{path.name} (not there)"
    return f"{path.name} ({found.hexdigest()})"
