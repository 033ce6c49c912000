"""The command that converts a model and writes nothing: elastic."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

from cyclopts import Parameter

from nas.cli.root import MODELS, DeviceOption, ForceOption, HtmlOption, app, job_with, text
from nas.text import human

if TYPE_CHECKING:
    from nas.compressing import Profile
    from nas.convert.elastic import ElasticSpace


@app.command(group=MODELS)
def elastic(
    job: Annotated[str, job_with("a `model` and an `example`, or a `space` or `study`")],
    *,
    budget: Annotated[
        str | None,
        text,
        Parameter(help="As 'macs <= 50%' or 'params <= 10_000_000'; it is said whether it can be met."),
    ] = None,
    device: DeviceOption | None = None,
    html: HtmlOption = None,
    force: ForceOption = False,
) -> None:
    """Say what of a model is elastic, what stays whole and why, and what the smallest, a middle and the largest arch cost.

    The job defines a `model` and an `example` of its inputs (and `build`, where nas.elastic needs it), or a `space` or
    `study` made with nas.elastic.  Nothing is trained, evaluated or stored.

    Args:
        device: where latency is measured, too; without one it is not.
    """
    from nas import files
    from nas.cli.output import print_lines, print_table, print_text
    from nas.compressing import profile
    from nas.errors import JobError

    if html is not None:
        files.check(html, JobError, _is_report, force=force)
    space, example = _converted(job)
    print_lines(f"{space.report}\n")
    found = profile(space, budget or (), example=example, device=device)
    print_table(["arch", "parameters", "share", *found.others], _rows(found))
    if found.verdicts:
        print_lines("\n".join(map(str, found.verdicts)))
    print_text(f"{space.shown_size} archs, decisions: {len(space.decisions)}")
    if html is not None:
        with files.explained(html, JobError):
            files.write(html, space.report.html.encode())
        print_text(f"wrote {html}")


def _is_report(file: Path) -> bool:
    with file.open("rb") as content:
        return b"class=nas-elastic" in content.read(1000)


def _converted(job: str) -> tuple[ElasticSpace, Any]:
    """The space that a job defines, or that its model gives, and inputs where there are some."""
    from torch import nn

    from nas.convert.elastic import ElasticSpace
    from nas.convert.elastic import elastic as convert
    from nas.errors import JobError
    from nas.study.job import load_module

    module, where, _, name = load_module(job)
    names = [name] if name else [known for known in ("space", "study", "model") if hasattr(module, known)]
    found = getattr(module, names[0], None) if names else None
    if callable(found) and not isinstance(found, nn.Module):
        found = found()
    if not isinstance(found, nn.Module):
        space = getattr(found, "space", found)  # of a study
        if isinstance(space, ElasticSpace):
            return space, getattr(module, "example", None)
        what = (
            f"{names[0]!r} of job {where!r} is a {type(found).__name__}" if names else f"job {where!r} has none of them"
        )
        raise JobError(f"{what}; let the job define a model and an example, or a space made with nas.elastic")
    if not hasattr(module, "example"):
        raise JobError(f"job {where!r} defines a model and no example; assign inputs that the model takes to it")
    return convert(found, module.example, build=getattr(module, "build", None)), module.example


def _rows(found: Profile) -> list[list[Any]]:
    """A row for each network: parameters, their share, and what else it costs."""
    largest = max(found.original["params"], 1)
    return [
        [name, row["params"], f"{100 * row['params'] / largest:.1f} %", *(_cell(row[one]) for one in found.others)]
        for name, row in found.measured.items()
    ]


def _cell(value: float) -> Any:
    return value if isinstance(value, int) else human(value)
