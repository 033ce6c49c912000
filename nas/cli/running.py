"""The commands that work: train, run, submit."""

from __future__ import annotations

import os
from shlex import quote
from typing import TYPE_CHECKING, Annotated, Any

from nas.cli.root import WORK, JobArgument, StoreOption, WaitOption, app, count, natural, seconds, text
from nas.cli.stores import keep, store_hint

if TYPE_CHECKING:
    from nas.study import Study


@app.command(group=WORK)
def train(
    job: JobArgument,
    *,
    workers: Annotated[int, count] = 1,
    ray: bool = False,
    address: Annotated[str | None, text] = None,
    restart: bool = False,
    quiet: bool = False,
) -> None:
    """Train the supernet of a job; goes on where it stopped, with as many workers as it is given then.

    Args:
        workers: processes that share every batch, each with a core, or a GPU where the training is on "cuda".
        ray: use Ray Train's workers; the training's path is one that all machines share.
        address: host:port of the Ray head, on a machine of the cluster; implies --ray. [default: $RAY_ADDRESS, or its own]
        restart: begin anew, even if there is a checkpoint.
        quiet: no progress.
    """
    from nas.cli.output import print_text
    from nas.errors import JobError
    from nas.study.job import load_job

    study = load_job(job)
    if study.training is None:
        raise JobError(f"job {job!r} has nothing to train; give its study Study(training=nas.Training(...))")
    if workers == 1 and not ray and address is None:
        result = study.training.run(progress=not quiet, resume=not restart)
    else:
        from nas.distributed import run as run_on

        result = run_on(study.training, workers, ray=ray, address=address, progress=not quiet, resume=not restart)
    print_text(str(result))
    if study.training.path is not None:
        print_text(f"supernet and logs: {study.training.path}")
    print_text(f"search it with: nas run {quote(job)}")


@app.command(group=WORK, name="run")
def run_study(
    job: JobArgument,
    *,
    trials: Annotated[int | None, count] = None,
    workers: Annotated[int, natural] = 2,
    ray: bool = False,
    address: Annotated[str | None, text] = None,
    name: Annotated[str | None, text] = None,
    store: StoreOption = None,
    time_limit: Annotated[float | None, seconds] = None,
    dry_run: bool = False,
    retry_failed: bool = False,
    wait: WaitOption = None,
    quiet: bool = False,
) -> None:
    """Search: evaluate archs until the study has enough trials; goes on where it stopped.

    A front of predicted latencies is measured at the end, where its device can be reached from here, and so is once more what
    is noisy on a front of measured ones.

    Args:
        trials: finished trials to go on to. [default: what the job says]
        workers: worker processes; 0 evaluates in this one.
        ray: use Ray actors as workers.
        address: host:port of the Ray head, on a machine of the cluster; implies --ray. [default: $RAY_ADDRESS, or its own]
        name: of the study, instead of the job's.
        time_limit: stop an evaluation that takes longer than this many seconds.
        dry_run: check everything and evaluate one arch here, without a record.
        retry_failed: first try all failed trials again. [default: those that stopped the last run, once for each job file]
        quiet: no progress.
    """
    from nas.cli import own
    from nas.cli.hardware import measure_front, measure_noisy
    from nas.cli.output import print_json, print_text
    from nas.cli.show import is_predicted
    from nas.hardware.idle import wait_s
    from nas.study.job import load_job
    from nas.study.retrying import fruitless

    study = keep(load_job(job))
    if name is not None or store is not None or "NAS_STORE" in os.environ:
        study.rename(name or study.name, store=store or os.environ.get("NAS_STORE"))
    if dry_run:
        print_json({**study.rehearse(), **_networks(study)})
        return
    if study.job is not None:
        own.remember("job", study.place, study.name, study.job)
    on_ray = ray or address is not None
    summary = study.run(
        trials,
        workers=workers,
        ray=ray,
        address=address,
        progress=not quiet,
        time_limit_s=time_limit,
        retry_failed=retry_failed,
        wait_s=wait_s(wait),
    )
    print_text(str(summary))
    if (fault := fruitless(study.record)) is not None:
        raise fault
    predicted = is_predicted(study.record)
    if predicted:
        measure_front(study, quiet)
    elif summary.evaluated and not on_ray:
        measure_noisy(study, None, wait, here=True)
    if study.record.counts()["COMPLETED"]:
        print_text(f"see it with: nas front {quote(study.name)}{' --measure' * predicted}{store_hint(study.where)}")
    else:
        print_text(f"see what became of them with: nas show {quote(study.name)}{store_hint(study.where)}")


@app.command(group=WORK, name="submit")
def submit_job(
    job: JobArgument | None = None,
    *,
    address: Annotated[str | None, text] = None,
    trials: Annotated[int | None, count] = None,
    workers: Annotated[int, natural] = 2,
    name: Annotated[str | None, text] = None,
    store: StoreOption = None,
    time_limit: Annotated[float | None, seconds] = None,
    submission_id: Annotated[str | None, text] = None,
    no_wait: bool = False,
    logs: Annotated[str | None, text] = None,
    cancel: Annotated[str | None, text] = None,
) -> None:
    """Search on a Ray cluster, driven from there: sends the job file's folder along and follows what is printed.

    Ctrl-C cancels the job, which hands back the trials under way; the same command goes on. Token and ids are Ray's own.

    Args:
        address: http://HOST:8265 of the cluster's head. [default: $RAY_API_SERVER_ADDRESS]
        trials: finished trials to go on to. [default: what the job says]
        workers: actors.
        name: of the study, instead of the job's.
        time_limit: stop an evaluation that takes longer than this many seconds.
        submission_id: the job's id. [default: Ray chooses]
        no_wait: print the job's id and leave it running.
        logs: follow a job that was submitted before.
        cancel: stop a job that was submitted before.
    """
    from nas.cli import submit
    from nas.errors import JobError
    from nas.runners.jobs import Jobs

    if sum(one is not None for one in (job, logs, cancel)) != 1:
        raise JobError("say one of: a job to submit, --logs ID, or --cancel ID")
    if cancel is not None:
        submit.cancel(Jobs(address), cancel)
    elif logs is not None:
        submit.follow(Jobs(address), logs)
    else:
        assert job is not None
        given = {"--trials": trials, "--workers": workers, "--name": name, "--time-limit": time_limit}
        options = [text for option, value in given.items() if value is not None for text in (option, str(value))]
        submit.submit(
            job, options, store or os.environ.get("NAS_STORE"), address=address, name=submission_id, wait=not no_wait
        )


def _networks(study: Study) -> dict[str, Any]:
    """What the smallest, a middle and the largest network cost, where the study has a supernet."""
    from nas.evaluate.base import every

    if not any(hasattr(one.weights, "source") for one in every(study.evaluators)):
        return {}  # torch is not imported for it
    from nas.compressing import profile
    from nas.errors import NasError
    from nas.study.measuring import supernet_of

    try:
        found = profile(supernet_of(study))
    except NasError as error:  # what cannot be counted can be searched
        return {"networks": str(error)}
    return {"networks": {name: dict(row) for name, row in found.measured.items()}}
