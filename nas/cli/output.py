"""What commands print: tables for people, JSON and CSV for programs."""

from __future__ import annotations

import json
import math
import re
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any

import pandas as pd
from rich.console import Console
from rich.markup import escape
from rich.progress import Progress, TaskID
from rich.table import Table
from rich.text import Text

from nas.text import printable

_INDEX = re.compile(r"\[\d+\]$")


def console() -> Console:
    """Standard output; wide enough for a table when it is not a terminal."""
    found = Console()
    return found if found.is_terminal else Console(width=160)


def print_table(columns: Sequence[str], rows: Sequence[Sequence[Any]], title: str | None = None) -> None:
    """A table; numbers to the right, None as an empty cell; text as it is, whatever it says to terminals or to rich."""
    table = Table(title=None if title is None else _shown(title), title_justify="left")
    for index, column in enumerate(columns):
        numeric = all(isinstance(row[index], (int, float)) or row[index] is None for row in rows)
        table.add_column(_shown(column), justify="right" if numeric and rows else "left", overflow="fold")
    for row in rows:
        table.add_row(*(_shown(_cell(value)) for value in row))
    console().print(table)


@contextmanager
def showing(title: str, quiet: bool) -> Iterator[Callable[[int, int], None]]:
    """A bar on standard error for what is called with (done, total); nothing when `quiet`."""
    with Progress(console=Console(stderr=True), disable=quiet) as bar:
        task = bar.add_task(escape(printable(title)), total=None)
        yield lambda done, total: bar.update(task, completed=done, total=total)


@contextmanager
def copying(quiet: bool) -> Iterator[Callable[[str, int, int], None]]:
    """A bar for each table that is copied, on a terminal's standard error; what it gives is told how far it is."""
    bars = Progress(console=Console(stderr=True), disable=quiet or not sys.stderr.isatty())
    tasks: dict[str, TaskID] = {}

    def show(table: str, done: int, total: int) -> None:
        if table not in tasks:
            tasks[table] = bars.add_task(table.replace("_", " "), total=2 * total)  # copied, then compared
        seen = bars.tasks[tasks[table]].completed
        bars.update(tasks[table], completed=done if seen < total else total + done)

    with bars:
        yield show


def print_text(text: str) -> None:
    """One line to standard output; what a terminal would obey is shown as an escape."""
    sys.stdout.write(printable(text) + "\n")


def print_lines(text: str) -> None:
    """Several lines to standard output, likewise."""
    sys.stdout.write(printable(text, keep="\n") + "\n")


def print_json(value: Any) -> None:
    """One JSON document."""
    print_lines(json.dumps(value, indent=2, allow_nan=False))


def records(frame: pd.DataFrame) -> list[dict[str, Any]]:
    """Rows as JSON-able dicts, the trial's number first; a missing value is None."""
    rows = []
    for number, row in zip(frame.index, frame.to_dict("records"), strict=True):
        rows.append({"trial": int(number), **{str(name): _plain(value) for name, value in row.items()}})
    return rows


def choices_text(choices: Mapping[str, Any]) -> str:
    """`width=64 kernels[0]=3,5,7`: decisions of one list together, as short as it can be read."""
    lists: dict[str, list[str]] = {}
    for name, value in choices.items():
        lists.setdefault(_INDEX.sub("", name), []).append(str(value))
    return " ".join(f"{name}={','.join(values)}" for name, values in lists.items())


def _shown(text: str) -> Text:
    return Text(printable(text, keep="\n"))


def _plain(value: Any) -> Any:
    if isinstance(value, Mapping):
        return {str(name): _plain(item) for name, item in value.items()}
    if isinstance(value, (list, tuple)):
        return [_plain(item) for item in value]
    value = value.item() if hasattr(value, "item") else value
    return None if isinstance(value, float) and math.isnan(value) else value


def _cell(value: Any) -> str:
    value = _plain(value)
    if value is None:
        return ""
    if isinstance(value, bool) or not isinstance(value, (int, float)):
        return str(value)
    if isinstance(value, int) or (float(value).is_integer() and abs(value) >= 1000):
        return f"{int(value):,}"
    return f"{value:.4g}"
