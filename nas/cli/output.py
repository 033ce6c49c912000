"""What commands print: tables for people, JSON and CSV for programs."""

from __future__ import annotations

import json
import math
import os
import re
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from rich.cells import cell_len
from rich.console import Console
from rich.markup import escape
from rich.progress import Progress, TaskID
from rich.table import Table
from rich.text import Text

from nas.measurements import TRIAL, heading
from nas.text import printable

if TYPE_CHECKING:
    import pandas as pd

_UNLIMITED = 1_000_000  # characters of a line that nobody reads on a terminal
_TEXT = 16  # characters of a text, as of a reason, that a column shows at least
_TABLE = 40  # characters of a table that a terminal may break itself: numbers stay whole
_INDEX = re.compile(r"\[\d+\]$")


class Figure(str):
    """Text that is a number for the table: to the right, and never broken."""

    __slots__ = ()


@dataclass(frozen=True)
class Column:
    """A column of a table.

    Args:
        name: its heading.
        rank: of columns that do not fit the one with the highest rank is left out first; 0 stays.
        brief: may be cut to a line, with an ellipsis, where there is no room.
    """

    name: str
    rank: int = 0
    brief: bool = False


def console() -> Console:
    """Standard output: a terminal is as wide as it is, a pipe as COLUMNS says, or else as wide as what is printed."""
    found = Console()
    known = found.is_terminal or os.environ.get("COLUMNS", "").isdigit()
    return Console(width=max(found.width, _TABLE) if known else _UNLIMITED)


def print_table(
    columns: Sequence[str | Column],
    rows: Sequence[Sequence[Any]],
    title: str | None = None,
    *,
    whole: bool = False,
) -> list[str]:
    """A table; numbers to the right and never broken, None as an empty cell; text as it is, whatever it says to terminals.

    Args:
        columns: their headings, or `Column`s, of which those of the highest rank are left out where they do not fit.
        rows: of cells.
        title: above.
        whole: leave nothing out and cut nothing, however narrow the terminal is.

    Returns:
        names of the columns that were left out.
    """
    target = Console(width=_UNLIMITED) if whole else console()
    heads = [one if isinstance(one, Column) else Column(one) for one in columns]
    cells = [[_cell(value) for value in row] for row in rows]
    numeric = [bool(rows) and all(_is_figure(row[at]) for row in rows) for at in range(len(heads))]
    widths = _widths(heads, cells, numeric, target.width)
    kept = list(widths)
    table = Table(title=None if title is None else _shown(title), title_justify="left")
    for at, width in widths.items():
        table.add_column(
            _shown(heads[at].name),
            justify="right" if numeric[at] else "left",
            overflow="ellipsis" if heads[at].brief else "fold",
            no_wrap=numeric[at] or heads[at].brief,
            width=width,
        )
    for row in cells:
        table.add_row(*(_shown(row[at]) for at in kept))
    target.print(table)
    return [heads[at].name for at in range(len(heads)) if at not in kept]


def _widths(
    heads: Sequence[Column], cells: Sequence[Sequence[str]], numeric: Sequence[bool], width: int
) -> dict[int, int]:
    """Characters of each column that is shown: all that it needs where there is room, and never less than a number has."""
    whole = [
        max(cell_len(line) for text in (head.name, *(row[at] for row in cells)) for line in _lines(text))
        for at, head in enumerate(heads)
    ]
    least = [
        longest if numeric[at] else min(longest, max(_TEXT, cell_len(printable(head.name))))
        for at, (head, longest) in enumerate(zip(heads, whole, strict=True))
    ]
    kept = list(range(len(heads)))
    while (room := width - 1 - sum(least[at] + 3 for at in kept)) < 0:
        spare = [at for at in kept if heads[at].rank > 0]
        if not spare:
            break
        kept.remove(max(spare, key=lambda at: (heads[at].rank, at)))
    found = {}
    for at in kept:
        more = min(max(room, 0), whole[at] - least[at])
        found[at], room = least[at] + more, room - more
    return found


def _lines(text: str) -> list[str]:
    return printable(text, keep="\n").split("\n")


def _is_figure(value: Any) -> bool:
    return value is None or isinstance(value, (int, float, Figure)) or _is_missing(value)


def _is_missing(value: Any) -> bool:
    """`pandas.NA`, which only who has pandas can have: its import takes longer than most commands."""
    pandas = sys.modules.get("pandas")
    return pandas is not None and value is pandas.NA


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
        rows.append({TRIAL: int(number), **{heading(str(name)): _plain(value) for name, value in row.items()}})
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
    if _is_missing(value):
        return None
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
