"""What a study is and found: as text, as data, as a picture."""

from __future__ import annotations

import json
import shlex
import sys
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pandas as pd

from nas import files
from nas.cli.output import Column, Figure, choices_text, print_json, print_lines, print_table, print_text, records
from nas.errors import FilterError, NasError, suggest
from nas.measurements import TRIAL, heading
from nas.noise import (
    LEGEND,
    close_neighbours,
    half_spread,
    is_noisy,
    noisy_name,
    noisy_trials,
    stem_of,
    tells,
    with_noise,
)
from nas.store import frames, further
from nas.store.filters import metric_key, trial_key
from nas.study.retrying import no_front
from nas.text import printable

if TYPE_CHECKING:
    from nas.metrics import Metric
    from nas.store import StudyRecord

FRONT_FORMATS = {".json": "json", ".csv": "csv", ".html": "html", ".png": "png"}


def show_study(
    record: StudyRecord, where: str | None, limit: int, format: str, columns: Columns, *, kin: Mapping[str, Any]
) -> None:
    """Print what the study is, and its latest trials; `kin` is what of its other levels is there, by name."""
    from nas.store.notes import TRIES

    first = max(0, sum(record.counts().values()) - limit)
    trials = record.trials(where=where or f"{trial_key('number')} >= {first}").tail(limit)
    tries = {int(number): 1 + len(record.notes(int(number)).get(TRIES, ())) for number in trials.index}
    if any(count > 1 for count in tries.values()):
        trials.insert(1, "tries", [tries[int(number)] for number in trials.index])
    facts = {
        "study": record.name,
        "objectives": [str(metric) for metric in record.objectives],
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
        **{name: one for name, one in kin.items() if one},
        **_reused(record),
    }
    if format == "json":
        print_json({**facts, "latest": records(trials)})
        return
    for name, fact in facts.items():
        print_text(f"{name + ':':13}{_fact(fact)}")
    _print_frame(trials, record, columns, first=["state", "tries", *(metric.name for metric in record.objectives)])


def _reused(record: StudyRecord) -> dict[str, int]:
    """How many trials were answered by one that computes the same; nothing where no evaluator shares (`nas.Once`)."""
    try:
        return {"reused": len(record.trials(where=f"{metric_key('reused')} >= 1", columns=["reused"]))}
    except FilterError:
        return {}


def write_front(
    record: StudyRecord,
    where: str | None,
    format: str | None,
    output: Path | None,
    columns: Columns,
    *,
    objectives: Sequence[Metric] | None = None,
    measured: pd.DataFrame | None = None,
    at: str = "",
) -> None:
    """Print the front, or write it to a file; `measured` is given where it was measured just now.

    `at` makes a command that is told find the database.
    """
    again = f"nas front {shlex.quote(record.name)} --measure{at}"
    format, output = destination(record, format, output)
    front = further.front(record, where, objectives) if measured is None else measured
    chosen = tuple(objectives or record.objectives)
    for sentence in further.left_out(record, where, objectives):
        _say(sentence)
    if output is not None:
        content = _picture(record, chosen, front, where, format) if format in ("html", "png") else _text(front, format)
        with files.explained(output, NasError):
            files.write(output, content)
        print_text(f"wrote {output}")
    elif format == "json":
        print_json(records(front))
    elif format == "csv":
        print_lines(frames.flat(front).to_csv().rstrip())
    elif front.empty:
        print_text(no_front(record, where))
    else:
        hint = f", or -o {_file_name(record.name)}-front.csv"
        _print_frame(front, record, columns, first=[metric.name for metric in chosen], hint=hint)
    if front.empty:
        return
    _say_noise(record, front, chosen, again)
    if measured is None and is_predicted(record):
        _say(f"these latencies are predictions; measure the front with: {again}")


def _say(sentence: str) -> None:
    """A line on standard error, beside what a program may read."""
    sys.stdout.flush()
    sys.stderr.write(printable(sentence) + "\n")


def _say_noise(record: StudyRecord, front: pd.DataFrame, objectives: Sequence[Metric], command: str) -> None:
    """What the noise of the measurements leaves open, and the command that measures again."""
    for close in close_neighbours(front, objectives):
        _say(str(close))
    measured = [metric.name for metric in objectives if noisy_name(metric.name) in front.columns]
    again = {number for number in further.trials_with(record) if number in front.index} if measured else set()
    for metric in objectives:
        noisy = [number for number in noisy_trials(front, metric.name) if number not in again]
        if noisy:
            _say(f"{metric.name} of {_trials(noisy)} is noisy; on a quiet machine, measure again with: {command}")
    if again:
        _say(f"measured again, the less noisy figure counts: {_trials(sorted(again))}")


def _trials(numbers: Sequence[int]) -> str:
    return f"trial{'s' * (len(numbers) > 1)} {', '.join(map(str, numbers))}"


def destination(record: StudyRecord, format: str | None, output: Path | None) -> tuple[str, Path | None]:
    """In which format a front is written and where; None is to standard output.

    Raises:
        NasError: a table in a file.
    """
    format = format or (FRONT_FORMATS.get(output.suffix) if output else None) or "table"
    if format == "table" and output is not None:
        raise NasError(
            f"a table is not written to a file; give --format json, csv, html or png, or -o {output.stem}.csv"
        )
    if format in ("html", "png"):
        output = output or Path(f"{_file_name(record.name)}-front.{format}")
    return format, output


def is_front(record: StudyRecord, format: str, objectives: Sequence[Metric] | None = None) -> Callable[[Path], bool]:
    """Whether a file is what `write_front` wrote in this format."""
    names = {metric.name for metric in objectives or record.objectives}

    def is_one(file: Path) -> bool:
        content = file.read_bytes()
        if format in ("html", "png"):
            from nas.plot import is_picture

            return is_picture(content)
        try:
            if format == "csv":
                first, *columns = content.partition(b"\n")[0].decode().split(",")
                return first in ("trial", "number") and names <= set(columns)
            rows = json.loads(content)
            return isinstance(rows, list) and all({"trial", *names} <= set(row) for row in rows)
        except (ValueError, TypeError):
            return False

    return is_one


def is_predicted(record: StudyRecord) -> bool:
    """Whether the latencies of a study are predictions."""
    return any(_is_prediction(one) for one in record.settings.get("evaluators", []))


def _is_prediction(told: Any) -> bool:
    """Of what an evaluator says of itself."""
    return isinstance(told, dict) and (told.get("name") == "Predicted" or _is_prediction(told.get("evaluator")))


def _text(front: pd.DataFrame, format: str) -> str:
    return str(frames.flat(front).to_csv()) if format == "csv" else json.dumps(records(front), indent=2) + "\n"


def _picture(
    record: StudyRecord, objectives: Sequence[Metric], front: pd.DataFrame, where: str | None, format: str
) -> bytes | str:
    if format == "html":
        from nas.page import page

        return page(record.name, objectives, record.trials(where=where), front)
    from nas.plot import front_figure, png

    columns = ["state", *(metric.name for metric in objectives)]
    return png(front_figure(record.name, objectives, record.trials(where=where, columns=columns), front))


def _print_frame(
    frame: pd.DataFrame,
    record: StudyRecord,
    columns: Columns,
    *,
    first: Sequence[str],
    hint: str = "",
) -> None:
    """A table of trials, as wide as the terminal; what it leaves out is said.

    Args:
        frame: the trials.
        record: the study.
        columns: which to show.
        first: names of those that are never left out.
        hint: how else to see all of them.
    """
    if frame.empty:
        print_text("no trials")
        return
    frame = frame.drop(columns=[name for name in ("reason",) if name in frame and frame[name].isna().all()])
    noisy = [name for name in frame.columns if tells(frame.columns, str(name))]
    shown = columns.of(frame, [name for name in map(str, frame.columns) if not _is_detail(name, record, noisy)])
    heads = [Column(TRIAL), *(_head(name, first) for name in shown)]
    same = _same_choices(frame) if "choices" in shown else {}
    rows = []
    for number, row in zip(frame.index, frame.to_dict("records"), strict=True):
        rows.append([int(number), *(_tidy(row, name, name in noisy, same) for name in shown)])
    left = len(frame.columns) - len(shown) if columns.given is None else 0
    left += len(print_table(heads, rows, whole=columns.whole))
    if same:
        print_text(f"in all of them: {choices_text(same)}")
    if any(name in noisy for name in shown):
        print_text(LEGEND)
    if left:
        print_text(f"… and {left} column{'s' * (left > 1)} more: --columns all{hint}")


def _head(name: str, first: Sequence[str]) -> Column:
    """How soon a column is left out where there is no room: choices after what was measured, and the reason before it."""
    if name in first:
        return Column(heading(name))
    return Column(
        heading(name), {"choices": 1, "reason": 2, "duration_s": 4}.get(name, 3), brief=name in ("choices", "reason")
    )


def _same_choices(frame: pd.DataFrame) -> dict[str, Any]:
    """Of several trials the choices that all of them made."""
    rows = [dict(choices) for choices in frame["choices"]]
    if len(rows) < 2:
        return {}
    first, *others = rows
    return {name: value for name, value in first.items() if all(name in one and one[name] == value for one in others)}


@dataclass(frozen=True)
class Columns:
    """Which columns of a table are shown: what is of interest (None), "all", or those named."""

    given: str | None = None

    @property
    def whole(self) -> bool:
        """Whether nothing is left out, however narrow the terminal is."""
        return self.given is not None

    def of(self, frame: pd.DataFrame, interesting: Sequence[str]) -> list[str]:
        """Names of the columns to show.

        Raises:
            FilterError: one that is named is not there.
        """
        known = [str(name) for name in frame.columns]
        if self.given is None:
            return list(interesting)
        if self.given == "all":
            return known
        wanted = [name.strip() for name in self.given.split(",") if name.strip() not in ("", "trial")]
        for name in wanted:
            if name not in known:
                raise FilterError(f"there is no column {name!r}{suggest(name, known)}; there are {', '.join(known)}")
        return wanted


def _is_detail(name: str, record: StudyRecord, noisy: Sequence[str]) -> bool:
    """How a trial was measured rather than what: `latency_spread_ms` beside `latency_ms`, the machine's `load`, the worker."""
    if name in ("worker", "attempt", "violation"):
        return True
    if name.endswith("_predicted"):
        return False
    names = [*(metric.name for metric in record.objectives), *noisy]
    stems = [stem_of(name) for name in names]
    return name not in names and (name == "load" or any(name.startswith(f"{stem}_") for stem in stems))


def _tidy(row: Mapping[Any, Any], name: str, noisy: bool, same: Mapping[str, Any]) -> Any:
    value = row[name]
    if isinstance(value, Mapping):
        return choices_text({name: item for name, item in value.items() if name not in same})
    if noisy and not pd.isna(value):
        return Figure(with_noise(float(value), half_spread(row, name), is_noisy(row, name)))
    return value


def _file_name(name: str) -> str:
    return "".join(letter if letter.isalnum() or letter in "-_." else "-" for letter in name)


def _fact(fact: Any) -> str:
    if isinstance(fact, list):
        return ", ".join(map(str, fact)) or "none"
    if isinstance(fact, dict):
        return ", ".join(f"{name} {value}" for name, value in fact.items())
    return str(fact)
