"""What a study is and found: as text, as data, as a picture."""

from __future__ import annotations

import json
import shlex
import sys
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pandas as pd

from nas import files
from nas.cli.output import choices_text, console, print_json, print_lines, print_table, print_text, records
from nas.errors import FilterError, NasError
from nas.metrics import unit_of
from nas.text import printable

if TYPE_CHECKING:
    from nas.store import StudyRecord

_FORMATS = {".json": "json", ".csv": "csv", ".html": "html", ".png": "png"}


def show_study(record: StudyRecord, where: str | None, limit: int, format: str, everything: bool) -> None:
    """Print what the study is, and its latest trials."""
    first = max(0, sum(record.counts().values()) - limit)
    trials = record.trials(where=where or f"number >= {first}").tail(limit)
    facts = {
        "study": record.name,
        "objectives": [f"{metric.goal} {metric.name}" for metric in record.objectives],
        "constraints": [str(constraint) for constraint in record.constraints],
        "space": {
            "name": record.schema["name"],
            "version": record.schema["version"],
            "decisions": len(record.schema["decisions"]),
        },
        "algorithm": record.settings.get("algorithm"),
        "job": record.settings.get("job"),
        "trials": record.counts(),
        "front": len(record.front()),
        **_reused(record),
    }
    if format == "json":
        print_json({**facts, "latest": records(trials)})
        return
    for name, fact in facts.items():
        print_text(f"{name + ':':13}{_fact(fact)}")
    _print_frame(trials, record, everything)


def _reused(record: StudyRecord) -> dict[str, int]:
    """How many trials were answered by one that computes the same; nothing where no evaluator shares (`nas.Once`)."""
    try:
        return {"reused": len(record.trials(where="reused >= 1", columns=["reused"]))}
    except FilterError:
        return {}


def write_front(
    record: StudyRecord,
    where: str | None,
    format: str | None,
    output: Path | None,
    everything: bool,
    *,
    measured: pd.DataFrame | None = None,
) -> None:
    """Print the front, or write it to a file; `measured` is given where the study's own is of predicted latencies."""
    format, output = destination(record, format, output)
    front = record.front(where=where) if measured is None else measured
    if output is not None:
        content = _picture(record, front, where, format) if format in ("html", "png") else _text(front, format)
        with files.explained(output, NasError):
            files.write(output, content)
        print_text(f"wrote {output}")
        if format in ("html", "png"):
            return
    elif format == "json":
        print_json(records(front))
    elif format == "csv":
        print_lines(_flat(front).to_csv().rstrip())
    elif front.empty:
        states = ", ".join(f"{count} {state}" for state, count in record.counts().items() if count) or "no trials yet"
        print_text(f"study {record.name!r} has no feasible trial{f' where {where}' if where else ''} ({states})")
    else:
        _print_frame(front, record, everything)
    if measured is None and not front.empty and is_predicted(record):
        again = f"nas front {shlex.quote(record.name)} --measure"
        sys.stderr.write(f"these latencies are predictions; measure the front with: {printable(again)}\n")


def destination(record: StudyRecord, format: str | None, output: Path | None) -> tuple[str, Path | None]:
    """In which format a front is written and where; None is to standard output.

    Raises:
        NasError: a table in a file.
    """
    format = format or (_FORMATS.get(output.suffix) if output else None) or "table"
    if format == "table" and output is not None:
        raise NasError(
            f"a table is not written to a file; give --format json, csv, html or png, or -o {output.stem}.csv"
        )
    if format in ("html", "png"):
        output = output or Path(f"{_file_name(record.name)}-front.{format}")
    return format, output


def is_front(record: StudyRecord, format: str) -> Callable[[Path], bool]:
    """Whether a file is what `write_front` wrote in this format."""
    names = {metric.name for metric in record.objectives}

    def is_one(file: Path) -> bool:
        content = file.read_bytes()
        if format in ("html", "png"):
            from nas.plot import is_picture

            return is_picture(content)
        try:
            if format == "csv":
                first, *columns = content.partition(b"\n")[0].decode().split(",")
                return first == "number" and names <= set(columns)
            rows = json.loads(content)
            return isinstance(rows, list) and all({"trial", *names} <= set(row) for row in rows)
        except (ValueError, TypeError):
            return False

    return is_one


def is_predicted(record: StudyRecord) -> bool:
    """Whether the latencies of a study are predictions."""
    return any(
        isinstance(one, dict) and one.get("name") == "Predicted" for one in record.settings.get("evaluators", [])
    )


def _text(front: pd.DataFrame, format: str) -> str:
    return str(_flat(front).to_csv()) if format == "csv" else json.dumps(records(front), indent=2) + "\n"


def _picture(record: StudyRecord, front: pd.DataFrame, where: str | None, format: str) -> bytes | str:
    from nas.plot import front_figure, page, png

    columns = ["state", *(metric.name for metric in record.objectives)]
    trials = record.trials(where=where, columns=columns)
    figure = front_figure(record.name, record.objectives, trials, front)
    return png(figure) if format == "png" else page(record.name, figure, front)


def _print_frame(frame: pd.DataFrame, record: StudyRecord, everything: bool) -> None:
    if not everything:
        frame = frame.drop(columns=[name for name in frame.columns if _is_detail(str(name), record)])
    labels = {metric.name: metric.label for metric in record.objectives}
    columns = ["trial", *(labels.get(name, _with_unit(name)) for name in frame.columns)]
    rows = [[number, *map(_tidy, row)] for number, row in zip(frame.index, frame.itertuples(index=False), strict=True)]
    if rows:
        print_table(columns, rows)
    else:
        console().print("no trials")


def _is_detail(name: str, record: StudyRecord) -> bool:
    """How a trial was measured rather than what: `latency_spread_ms` beside `latency_ms`, the machine's `load`, the worker."""
    if name in ("worker", "attempt", "violation"):
        return True
    if name.endswith("_predicted"):
        return False
    names = [metric.name for metric in record.objectives]
    stems = [name.removesuffix(f"_{unit_of(name).lower()}") if unit_of(name) else name for name in names]
    return name not in names and (name == "load" or any(name.startswith(f"{stem}_") for stem in stems))


def _with_unit(name: str) -> str:
    unit = unit_of(str(name))
    return f"{name} [{unit}]" if unit else str(name)


def _tidy(value: Any) -> Any:
    return choices_text(value) if isinstance(value, Mapping) else value


def _flat(front: pd.DataFrame) -> pd.DataFrame:
    """One column a decision instead of `choices`."""
    if "choices" not in front.columns:
        return front
    choices = pd.DataFrame(front["choices"].map(dict).tolist(), index=front.index, dtype=object)
    flat = pd.concat([front.drop(columns="choices"), choices], axis=1)
    return flat.rename(columns=printable).map(lambda value: printable(value) if isinstance(value, str) else value)


def _file_name(name: str) -> str:
    return "".join(letter if letter.isalnum() or letter in "-_." else "-" for letter in name)


def _fact(fact: Any) -> str:
    if isinstance(fact, list):
        return ", ".join(map(str, fact)) or "none"
    if isinstance(fact, dict):
        return ", ".join(f"{name} {value}" for name, value in fact.items())
    return str(fact)
