"""The command that makes a trained model smaller: compress."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any, Literal

from cyclopts import Parameter

from nas.cli.root import MODELS, DeviceOption, app, count, job_with, natural, text

BUDGET = (
    "As 'latency_ms <= 0.6 * original', 'params <= 10_000_000' or '50%'; one network for each budget where several are "
    "separated by commas."
)


@app.command(group=MODELS)
def compress(
    job: Annotated[str, job_with("a trained `model` and its `task`")],
    *,
    budget: Annotated[str, text, Parameter(help=BUDGET)],
    device: DeviceOption | None = None,
    folder: Annotated[str, text] = "compressed",
    epochs: Annotated[int, count] = 6,
    trials: Annotated[int | None, count] = None,
    workers: Annotated[int, natural] = 0,
    tune: Literal["network", "family"] = "network",
    train_device: Annotated[str, text] = "cpu",
    best: Annotated[str, text] = "",
    cache: Annotated[str, text] = "",
    dry_run: bool = False,
    quiet: bool = False,
) -> None:
    """Make a trained model smaller: the best network within a budget, tuned, beside uniform scaling.

    The job defines a trained `model` and its `task`; `options`, a dict, is for nas.elastic, and `training` for nas.Training.

    Args:
        device: where latency is measured, as 'cpu,threads=2'; without one it is not measured.
        folder: of everything that is made; the same command goes on there.
        epochs: of training, the race of two candidates included; uniform scaling is trained by itself for as many.
        trials: networks that the search measures. [default: one for each alternative of each decision and 60 more]
        workers: processes of the search; 0 is this one.
        tune: one network for each budget, or the best networks of all sizes together, as one supernet.
        train_device: where networks are trained, as 'cuda'.
        best: metric of the task that decides between tuned networks, as 'max accuracy'. [default: min loss]
        cache: sequences that a decoder writes at once, and positions of each, as '8,1024': their keys and values are counted, for
            a budget as 'memory_mib <= 50%'.
        dry_run: say what the smallest, a middle and the largest network cost, and whether the budget can be met.
        quiet: no progress.
    """
    from nas.cli.output import print_lines, print_text

    module = _module(job)
    options, training = (_mapping(module, name) for name in ("options", "training"))
    sequences = _cache(cache)
    if dry_run:
        from nas.compressing import profile

        asked: dict[str, Any] = {"device": device, "options": options, "cache": sequences}
        print_lines(str(profile(module.model, budget, example=module.task.example, **asked)))
        return
    from nas.compressing import compress as make_smaller
    from nas.study.take_home import take_home

    ours: dict[str, Any] = {"device": device, "folder": folder, "epochs": epochs, "trials": trials, "workers": workers}
    ours |= {"cache": sequences, "options": options, "progress": not quiet, "best": best, "tune": tune}
    ours["train_device"] = train_device
    _check_apart(training, ours)
    result = make_smaller(module.model, module.task, budget, **ours, **training)
    for choice in result.choices:
        chosen = choice.chosen
        chosen.study.job = job
        winner = take_home(chosen.study, chosen.number)
        # Another training of the arch is another study, whose network has another folder.
        target = Path(folder) / f"network-{chosen.study.name}-{chosen.number}"
        winner.write(target, force=True)
        print_text(f"{choice.budget}: wrote {target}/: model.safetensors, arch.json, load.py")
    print_text(f"report: {Path(folder) / 'report.html'} and {Path(folder) / 'README.md'}")


def _module(job: str) -> Any:
    """The job, which has a model and a task.

    Raises:
        JobError: it lacks one.
    """
    from nas.errors import JobError
    from nas.study.job import load_module

    module, where, _, _ = load_module(job)
    for name in ("model", "task"):
        if not hasattr(module, name):
            raise JobError(
                f"job {where!r} defines no {name!r}; let it define a trained model and its task, as nas.digits()"
            )
    return module


def _cache(word: str) -> tuple[int, int] | None:
    """Batch and length of `--cache`.

    Raises:
        JobError: it is not two whole numbers.
    """
    from nas.errors import JobError

    numbers = [int(one) for one in word.split(",") if one.strip().isdecimal()]
    if word and (len(numbers) != 2 or word.count(",") != 1):
        raise JobError(
            f"--cache was given '{word}'; it is two whole numbers: sequences, and positions of each, as in 8,1024"
        )
    return (numbers[0], numbers[1]) if word else None


def _mapping(module: Any, name: str) -> dict[str, Any]:
    """Options that the job defines, if it does.

    Raises:
        JobError: they are no dict.
    """
    from nas.errors import JobError

    found = getattr(module, name, {})
    if not isinstance(found, dict):
        raise JobError(f"{name!r} of the job is a {type(found).__name__}; let it be a dict of options")
    return found


def _check_apart(training: dict[str, Any], ours: dict[str, Any]) -> None:
    """Refuse what both the job and the command say.

    Raises:
        JobError: there is such an option.
    """
    from nas.errors import JobError

    twice = [name for name in training if name in ours]
    if twice:
        raise JobError(f"'training' of the job has {', '.join(twice)}, which the command decides; use --{twice[0]}")
