"""Ray Jobs: a driver that runs on the cluster itself, with the folder of its job file sent along.

What `ray job submit`, `status`, `logs` and `stop` do, for commands of `nas`; their ids are Ray's, so that those work too.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import os
import shlex
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import ray.exceptions as rex

from nas.errors import RunnerError
from nas.runners.cluster import check_token

_START_S = 60.0
_STOP_S = 60.0
_LOOK_S = 0.5
# Left at home: what is large, or what the cluster would have a copy of that nobody reads.
_EXCLUDED = (".git", ".venv", "__pycache__", "*.db", "*.db-wal", "*.db-shm")
# Stopped as by Ctrl-C, and given the time to hand its trials back.
_STOP = {"RAY_JOB_STOP_SIGNAL": "SIGINT", "RAY_JOB_STOP_WAIT_TIME_S": str(int(_STOP_S))}
_ADDRESS_VARIABLE = "RAY_API_SERVER_ADDRESS"  # Ray's own


class Jobs:
    """The job server of a cluster's head.

    Args:
        address: `http://HOST:8265`, or HOST:PORT; RAY_API_SERVER_ADDRESS unless given.

    Raises:
        RunnerError: nothing answers there, it refuses the token, or what it takes to ask is not installed.
    """

    def __init__(self, address: str | None = None) -> None:
        self.address = _url(address or os.environ.get(_ADDRESS_VARIABLE))
        try:
            from ray.job_submission import JobSubmissionClient
        except ImportError:
            raise _not_installed() from None
        check_token(self.address)
        for talkative in (
            "dashboard.modules.dashboard_sdk",
            "dashboard.modules.job.sdk",
            "_private.runtime_env.packaging",
        ):
            logging.getLogger(f"ray.{talkative}").setLevel(logging.WARNING)
        with self._sentences(), _preferred(self.address):
            self._client: Any = JobSubmissionClient(self.address)

    def submit(self, command: Sequence[str], folder: Path, job: str | None = None) -> str:
        """Start `command` on the cluster, in a copy of `folder`; the job's id.

        Raises:
            RunnerError: the folder is too large, or there is such a job already.
        """
        environment = {"working_dir": str(folder), "excludes": list(_EXCLUDED), "env_vars": dict(_STOP)}
        deadline = time.monotonic() + _START_S
        while True:
            try:
                with self._sentences(job):
                    return str(
                        self._client.submit_job(
                            entrypoint=f"exec {shlex.join(command)}", submission_id=job, runtime_env=environment
                        )
                    )
            except RunnerError as error:
                if "No available agent" not in str(error) or time.monotonic() > deadline:
                    raise
            time.sleep(_LOOK_S)  # the head has just started

    def follow(self, job: str, write: Callable[[str], object]) -> str:
        """Give what the job prints to `write` until it ends; its last status.

        Raises:
            RunnerError: there is no such job, or the cluster is gone.
        """
        seen = 0
        while True:
            status, _ = self.status(job)
            seen = asyncio.run(self._tail(job, seen, write))
            if status in _ENDED:
                return status
            time.sleep(_LOOK_S)

    async def _tail(self, job: str, seen: int, write: Callable[[str], object]) -> int:
        """Write what follows the first `seen` letters, until the connection ends; how many there were."""
        import aiohttp

        before = 0
        with contextlib.suppress(aiohttp.ClientError, RuntimeError):  # lost: whether the cluster is, `status` will say
            async for text in self._client.tail_job_logs(job):
                if before + len(text) > seen:
                    write(text[max(0, seen - before) :])
                before += len(text)
        return max(seen, before)

    def status(self, job: str) -> tuple[str, str]:
        """PENDING, RUNNING, STOPPED, SUCCEEDED or FAILED, and what Ray says of it.

        Raises:
            RunnerError: there is no such job.
        """
        with self._sentences(job):
            found = self._client.get_job_info(job)
        return str(found.status), " ".join(str(found.message or "").split())

    def cancel(self, job: str) -> str:
        """Stop the job as Ctrl-C would, and wait until it has ended; its last status.

        Raises:
            RunnerError: there is no such job, or it does not end.
        """
        with self._sentences(job):
            self._client.stop_job(job)
        deadline = time.monotonic() + _STOP_S + 10
        while (status := self.status(job)[0]) not in _ENDED:
            if time.monotonic() > deadline:
                raise RunnerError(
                    f"job {job!r} has not ended {_STOP_S:.0f} s after it was told to; see: ray job status {job}"
                )
            time.sleep(_LOOK_S)
        return status

    @contextlib.contextmanager
    def _sentences(self, job: str | None = None) -> Iterator[None]:
        """Ray's errors in one sentence."""
        try:
            yield
        except rex.AuthenticationError:
            raise RunnerError(
                f"Ray at {self.address} refuses this token; set RAY_AUTH_MODE=token and name the file that holds the cluster's "
                "in RAY_AUTH_TOKEN_PATH"
            ) from None
        except (ConnectionError, OSError):
            raise RunnerError(
                f"no job server of Ray answers at {self.address}; give http://HOST:8265 of a head that was started with "
                "--include-dashboard=true and 'supernas[jobs]' installed"
            ) from None
        except (RuntimeError, ValueError) as error:
            raise self._explained(str(error), job) from None

    def _explained(self, text: str, job: str | None) -> RunnerError:
        said = " ".join(text.split())
        if "ray[default]" in said:
            return _not_installed()
        if "does not exist" in said and job is not None:
            return RunnerError(f"there is no job {job!r} at {self.address}; 'ray job list' lists them")
        if "already exists" in said and job is not None:
            return RunnerError(
                f"there is a job {job!r} at {self.address} already; leave out --submission-id, or give another"
            )
        if "exceeds the maximum size" in said or "Package size" in said:
            return RunnerError(
                f"the job's folder is too large to be sent along: {said}; keep data and checkpoints elsewhere"
            )
        return RunnerError(f"Ray at {self.address} does not do that: {said[:300]}")


_ENDED = ("STOPPED", "SUCCEEDED", "FAILED")


@contextlib.contextmanager
def _preferred(address: str) -> Iterator[None]:
    """Ray prefers what these variables name to the address that it is given."""
    before = os.environ.get(_ADDRESS_VARIABLE)
    os.environ[_ADDRESS_VARIABLE] = address
    try:
        yield
    finally:
        del os.environ[_ADDRESS_VARIABLE]
        if before is not None:
            os.environ[_ADDRESS_VARIABLE] = before


def _not_installed() -> RunnerError:
    return RunnerError("jobs of Ray need more than its core; pip install 'supernas[jobs]' (here and on the head)")


def _url(address: str | None) -> str:
    if not address:
        raise RunnerError(
            f"no cluster is named; give --address http://HOST:8265 of its head, or set {_ADDRESS_VARIABLE}"
        )
    if address.startswith(("http://", "https://")):
        return address.rstrip("/")
    host, _, port = address.rpartition(":")
    if not host or not port.isdigit() or "/" in host:
        raise RunnerError(f"address {address!r} is not usable; give http://HOST:8265 of the cluster's head")
    return f"http://{address}"
