"""`nas submit`: a search whose driver runs on the cluster."""

from __future__ import annotations

import sys
from pathlib import Path

from nas.cli.output import print_text
from nas.errors import JobError, RunnerError
from nas.runners.jobs import Jobs
from nas.store.database import locate, shown
from nas.store.sqlite import Sqlite
from nas.study.job import load_job


def submit(
    job: str, options: list[str], store: str | None, *, address: str | None, name: str | None, wait: bool
) -> None:
    """Send `nas run JOB --ray` and `options` to a cluster; follow what it prints unless told not to `wait`.

    Ctrl-C cancels the job.

    Raises:
        JobError: the job does not build, or its database would be lost with the job.
        RunnerError: the cluster does not take it, or it failed there.
    """
    folder, reference = _home(job)
    declared = load_job(job).where
    _check_store(store or declared)
    jobs = Jobs(address)
    command = ["python", "-m", "nas", "run", reference, "--ray", *options, *(["--store", store] if store else [])]
    submitted = jobs.submit(command, folder, name)
    print_text(f"job {submitted} on {jobs.address}")
    if wait:
        follow(jobs, submitted)
    else:
        print_text(f"follow it with: nas submit --logs {submitted} --address {jobs.address}")


def follow(jobs: Jobs, job: str) -> None:
    """Print what a job prints, to its end; Ctrl-C cancels it.

    Raises:
        RunnerError: it failed, or was stopped by somebody else.
    """
    try:
        status = jobs.follow(job, _write)
    except KeyboardInterrupt:
        sys.stderr.write(f"nas: cancelling job {job}, which hands its trials back\n")
        jobs.cancel(job)
        raise
    if status != "SUCCEEDED":
        raise RunnerError(f"job {job} {'was stopped' if status == 'STOPPED' else 'failed'}: {jobs.status(job)[1]}")


def cancel(jobs: Jobs, job: str) -> None:
    """Stop a job; one that has ended already stays as it is."""
    print_text(f"job {job}: {jobs.cancel(job)}")


def _write(text: str) -> None:
    sys.stdout.write(text)
    sys.stdout.flush()


def _home(job: str) -> tuple[Path, str]:
    """The folder that is sent along, and the job's name seen from there."""
    target, colon, name = job.partition(":")
    path = Path(target)
    if path.is_file():
        return path.resolve().parent, f"{path.name}{colon}{name}"
    return Path.cwd(), job


def _check_store(where: str) -> None:
    backend = locate(where)
    if isinstance(backend, Sqlite):
        if not backend.path.is_absolute():
            raise JobError(
                f"database {where!r} would lie in the job's folder on the cluster, which is thrown away; give --store "
                "postgresql://user@host/database, or an absolute path on a disk that the head keeps"
            )
    elif shown(where) != where:
        raise JobError(
            f"database {shown(where)!r} names a password, which everybody would see who sees the cluster's jobs; leave it out, "
            "and put it into the head's PGPASSFILE"
        )
