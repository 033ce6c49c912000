"""`nas compare`: several studies as a table, as data, as a picture."""

from __future__ import annotations

import csv
import io
import json
import sys
from pathlib import Path
from typing import TYPE_CHECKING

from nas import files
from nas.cli.output import Column, print_json, print_lines, print_table, print_text
from nas.cli.stores import check_output
from nas.errors import NasError
from nas.text import printable

if TYPE_CHECKING:
    from nas.store.comparing import Comparison

_FORMATS = {".json": "json", ".csv": "csv", ".png": "png"}


def write_comparison(
    found: Comparison, format: str | None, output: Path | None, store: str | None, *, force: bool
) -> None:
    """Print it, or write it to a file."""
    format = format or (_FORMATS.get(output.suffix) if output else None) or "table"
    if format == "png":
        output = output or Path("compare.png")
    if output is None:
        _print(found, format)
    elif format == "table":
        raise NasError(f"a table is not written to a file; give --format json, csv or png, or -o {output.stem}.csv")
    else:
        check_output(output, store, lambda file: _is_comparison(file, format), force=force)
        files.check_ending(output, format, _FORMATS, NasError)
        with files.explained(output, NasError):
            files.write(output, _content(found, format))
        print_text(f"wrote {output}")
    sys.stdout.flush()
    for note in found.notes:
        sys.stderr.write(printable(note) + "\n")


def _print(found: Comparison, format: str) -> None:
    if format == "json":
        print_json(_data(found))
    elif format == "csv":
        print_lines(_csv(found).rstrip())
    else:
        rows = [study.row() for study in found.studies]
        heads = [Column(name, 1 if name.startswith("trials_to") else 0) for name in rows[0]]
        left = print_table(heads, [list(row.values()) for row in rows])
        told = ", ".join(f"{name} {value:.4g}" for name, value in found.reference.items())
        print_text(
            f"objectives: {', '.join(map(str, found.objectives))}; reference point: {told}, the worst in all studies"
        )
        if left:
            print_text(f"… and {len(left)} columns more: --format json, or -o compare.csv")


def _content(found: Comparison, format: str) -> bytes | str:
    if format == "png":
        from nas.plot import comparison_figure, png

        return png(comparison_figure(found))
    return _csv(found) if format == "csv" else json.dumps(_data(found), indent=2) + "\n"


def _data(found: Comparison) -> dict[str, object]:
    return {
        "objectives": [str(metric) for metric in found.objectives],
        "reference": found.reference,
        "studies": [{**study.row(), "curve": [list(point) for point in study.curve]} for study in found.studies],
        "notes": found.notes,
    }


def _csv(found: Comparison) -> str:
    rows = [study.row() for study in found.studies]
    text = io.StringIO()
    writer = csv.DictWriter(text, list(rows[0]), lineterminator="\n")
    writer.writeheader()
    writer.writerows({**row, "study": printable(row["study"])} for row in rows)
    return text.getvalue()


def _is_comparison(file: Path, format: str) -> bool:
    """Whether a file is what `write_comparison` wrote in this format."""
    content = file.read_bytes()
    if format == "png":
        from nas.plot import is_picture

        return is_picture(content)
    if format == "csv":
        return content.startswith(b"study,trials,completed,front,hypervolume")
    try:
        return {"objectives", "reference", "studies"} <= set(json.loads(content))
    except (ValueError, TypeError):
        return False
