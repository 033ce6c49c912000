"""The commands that look: studies, show, front."""

from __future__ import annotations

from typing import Annotated, Literal

from cyclopts import Parameter

from nas.cli.root import (
    ForceOption,
    JobOption,
    OutputOption,
    StoreOption,
    StudyArgument,
    WhereOption,
    app,
    natural,
)
from nas.cli.stores import check_output, declared, reading


@app.command
def studies(*, store: StoreOption = None, format: Literal["table", "json"] = "table") -> None:
    """List the studies of a database."""
    from nas.cli.output import print_json, print_table
    from nas.store import STATES

    found = reading(store).studies()
    if format == "json":
        print_json(
            [
                {
                    "study": summary.name,
                    "space": summary.space,
                    "objectives": [f"{metric.goal} {metric.name}" for metric in summary.objectives],
                    "trials": summary.counts,
                    "front": summary.front_size,
                    "best": summary.best,
                }
                for summary in found
            ]
        )
        return
    print_table(
        ["study", "space", "objectives", *(state.lower() for state in STATES), "front"],
        [
            [
                summary.name,
                summary.space,
                ", ".join(f"{metric.goal} {metric.name}" for metric in summary.objectives),
                *(summary.counts.get(state, 0) for state in STATES),
                summary.front_size,
            ]
            for summary in found
        ],
    )


@app.command
def show(
    study: StudyArgument,
    *,
    store: StoreOption = None,
    state: Literal["WAITING", "RUNNING", "COMPLETED", "INFEASIBLE", "FAILED"] | None = None,
    where: WhereOption = None,
    limit: Annotated[int, natural] = 20,
    format: Literal["table", "json"] = "table",
    everything: Annotated[bool, Parameter(name="--all")] = False,
) -> None:
    """Show what a study is, how far it is, and its latest trials.

    Args:
        state: only trials in this state.
        where: only trials that satisfy this filter, as in "latency_ms <= 2".
        limit: this many trials at the most.
        everything: show every measurement, also how it was measured.
    """
    from nas.cli.show import show_study

    clauses = [f"({where})"] if where else []
    clauses += [f"state == {state!r}"] if state else []
    show_study(reading(store).open_study(study), " and ".join(clauses) or None, limit, format, everything)


@app.command
def front(
    study: StudyArgument,
    *,
    store: StoreOption = None,
    where: WhereOption = None,
    format: Literal["table", "json", "csv", "html", "png"] | None = None,
    output: OutputOption | None = None,
    everything: Annotated[bool, Parameter(name="--all")] = False,
    force: ForceOption = False,
    measure: bool = False,
    job: JobOption = None,
) -> None:
    """Print or draw the Pareto front of a study.

    Args:
        where: the front of the trials that satisfy this filter, as in "latency_ms <= 2 and params < 50_000".
        format: table unless given, or what the output's ending says.
        output: file to write instead of printing; html and png need one. [default: STUDY-front.FORMAT]
        everything: print every measurement, also how it was measured.
        measure: measure every trial of a front of predicted latencies, until all of the front is measured.
    """
    from nas.cli.show import destination, is_front, write_front

    record, found = reading(store).open_study(study), None
    chosen, target = destination(record, format, output)
    if target is not None:
        check_output(target, store, is_front(record, chosen), force=force)
    if measure:
        from nas.cli.hardware import ticker
        from nas.study.measuring import measured_front

        words = ["front", study, "--measure", *(["--where", where] if where else [])]
        found = measured_front(declared(study, job, store, words), where, ticker(quiet=False))
    write_front(record, where, format, output, everything, measured=found)
