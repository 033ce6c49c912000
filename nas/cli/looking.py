"""The commands that look: studies, show, front."""

from __future__ import annotations

from typing import Annotated, Literal

from cyclopts import Parameter

from nas.cli.root import (
    LOOK,
    ColumnsOption,
    ForceOption,
    JobOption,
    OutputOption,
    StoreOption,
    StudyArgument,
    WaitOption,
    WhereOption,
    app,
    natural,
    text,
)
from nas.cli.stores import check_output, declared, reading, shown_of, store_hint
from nas.errors import MetricError, NasError

# How soon a count of trials is left out of a narrow terminal.
_STATE_RANKS = {"COMPLETED": 0, "FAILED": 1, "INFEASIBLE": 2, "RUNNING": 3, "WAITING": 4}


@app.command(group=LOOK)
def studies(*, store: StoreOption = None, format: Literal["table", "json"] = "table") -> None:
    """List the studies of a database."""
    from nas.cli.output import Column, print_json, print_table
    from nas.store import STATES

    found = reading(store).studies()
    if format == "json":
        print_json(
            [
                {
                    "study": summary.name,
                    "space": summary.space,
                    "objectives": [str(metric) for metric in summary.objectives],
                    "trials": summary.counts,
                    "front": summary.front_size,
                    "best": summary.best,
                    "level_of": summary.level_of,
                }
                for summary in found
            ]
        )
        return
    print_table(
        [
            Column("study"),
            Column("space", 5),
            Column("objectives"),
            *(Column(state.lower(), _STATE_RANKS[state]) for state in STATES),
            Column("front"),
        ],
        [
            [
                summary.name if summary.level_of is None else f"{summary.name} (low evaluations)",
                summary.space,
                ", ".join(map(str, summary.objectives)),
                *(summary.counts.get(state, 0) for state in STATES),
                summary.front_size,
            ]
            for summary in found
        ],
    )


@app.command(group=LOOK)
def show(
    study: StudyArgument,
    *,
    store: StoreOption = None,
    state: Literal["WAITING", "RUNNING", "COMPLETED", "INFEASIBLE", "FAILED"] | None = None,
    where: WhereOption = None,
    limit: Annotated[int, natural] = 20,
    format: Literal["table", "json"] = "table",
    columns: ColumnsOption = None,
    everything: Annotated[bool, Parameter(name="--all")] = False,
) -> None:
    """Show what a study is, how far it is, and its latest trials.

    Args:
        state: only trials in this state.
        where: only trials that satisfy this filter, as in "latency_ms <= 2".
        limit: this many trials at the most.
        columns: show these columns, as in "params,latency_ms", or all; else what is of interest and has room.
        everything: as --columns all.
    """
    from nas.cli.show import Columns, show_study
    from nas.store.filters import in_state

    opened = reading(store)
    show_study(
        opened.open_study(study),
        in_state(state, where) if state else where,
        limit,
        format,
        Columns("all" if everything else columns),
        kin={"level of": opened.level_of(study), "levels": opened.levels(study)},
    )


@app.command(group=LOOK)
def front(
    study: StudyArgument,
    *,
    store: StoreOption = None,
    where: WhereOption = None,
    format: Literal["table", "json", "csv", "html", "png"] | None = None,
    output: OutputOption | None = None,
    objectives: Annotated[str | None, text] = None,
    columns: ColumnsOption = None,
    everything: Annotated[bool, Parameter(name="--all")] = False,
    force: ForceOption = False,
    measure: bool = False,
    wait: WaitOption = None,
    job: JobOption = None,
) -> None:
    """Print or draw the Pareto front of a study.

    Args:
        where: the front of the trials that satisfy this filter, as in "latency_ms <= 2 and params < 50_000".
        format: table unless given, or what the output's ending says.
        output: file to write instead of printing; with --format html or png it is STUDY-front.FORMAT unless given.
        objectives: of any metrics that were measured, as in "max accuracy, min params". [default: the study's]
        columns: print these columns, as in "params,latency_ms", or all; else what is of interest and has room.
        everything: as --columns all.
        measure: measure a front of predicted latencies until all of it is measured, or what is noisy on the front once more.
        wait: seconds to wait for a quiet machine before that.
    """
    from nas.cli.show import FRONT_FORMATS, Columns, destination, is_front, write_front
    from nas.files import check_ending
    from nas.metrics import parse_objectives

    record, found = reading(store).open_study(study), None
    others = None if objectives is None else parse_objectives(objectives)
    chosen, target = destination(record, format, output)
    if target is not None:
        check_output(target, store, is_front(record, chosen, others), force=force)
        check_ending(target, chosen, FRONT_FORMATS, NasError)
    if measure:
        from nas.cli.hardware import measure_anew

        if others is not None:
            raise MetricError(
                "--measure measures the front of the study's objectives; give --objectives in another command"
            )
        words = ["front", study, "--measure", *(["--where", where] if where else [])]
        found = measure_anew(declared(study, job, store, words), where, wait)
    shown = Columns("all" if everything else columns)
    at = store_hint(shown_of(store))
    write_front(record, where, format, output, shown, objectives=others, measured=found, at=at)


@app.command(group=LOOK)
def compare(
    study: StudyArgument,
    other: StudyArgument,
    *more: Annotated[str, text],
    objectives: Annotated[str | None, text] = None,
    where: WhereOption = None,
    format: Literal["table", "json", "csv", "png"] | None = None,
    output: OutputOption | None = None,
    force: ForceOption = False,
    store: StoreOption = None,
) -> None:
    """Compare the fronts of studies: hypervolume by a common reference point, and how many trials each took.

    joint_front is how many points of a study's front no trial of any of them dominates, trials_to_90 how many trials it took
    to 90 % of the hypervolume of the best of them.

    Args:
        other: study to compare it with.
        more: further studies.
        objectives: as in "max accuracy, min params". [default: the first study's, as far as all have measured them]
        where: only trials that satisfy this filter.
        format: table unless given, or what the output's ending says.
        output: file to write instead of printing; with --format png it is compare.png unless given.
    """
    from nas.cli.compare import write_comparison
    from nas.metrics import parse_objectives
    from nas.store.comparing import compare as compare_records

    chosen = None if objectives is None else parse_objectives(objectives)
    opened = reading(store)
    found = compare_records([opened.open_study(name) for name in (study, other, *more)], chosen, where)
    write_comparison(found, format, output, store, force=force)
