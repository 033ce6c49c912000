"""A client of `nas serve`: take part in a study from another machine, with the standard library alone.

    study = nas.Remote("https://host/nas", token="…").study("phone")
    study.run(lambda choices: {"accuracy": …, "latency_ms": …}, worker="bench-1")

or, step by step, `ask`, `heartbeat` and `tell`.  A server that is away is waited for; what is sent again changes nothing.
"""

from __future__ import annotations

import json
import random
import threading
import time
import urllib.error
import urllib.request
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from http.client import HTTPException
from typing import TYPE_CHECKING, Any
from urllib.parse import quote, urlencode

from nas.checking import Count, Natural, Positive, checked
from nas.errors import Infeasible, NasError, brief
from nas.failures import describe, interrupts
from nas.measurements import usable

if TYPE_CHECKING:
    import pandas as pd

LEASE_S, PATIENCE_S = 60.0, 120.0
_jitter = random.Random()


class RemoteError(NasError):
    """What a server said is wrong, in its own sentence.

    Attributes:
        status: of HTTP; 0 where it did not answer.
        problem: all that it said.
    """

    def __init__(self, message: str, status: int = 0, problem: Mapping[str, Any] | None = None) -> None:
        super().__init__(message)
        self.status, self.problem = status, dict(problem or {})


@dataclass(frozen=True)
class RemoteTrial:
    """A trial to evaluate.

    Args:
        number: of the trial.
        attempt: goes back with what it measured.
        choices: label or value by decision name.
        row: the same as numbers, in the order of the study's decisions; None is inactive.
        value: the whole arch, of a study that was declared in JSON.
    """

    number: int
    attempt: int
    choices: dict[str, Any]
    row: list[float | None]
    value: Any = None


class Remote:
    """A server.

    Args:
        url: where it is, as `http://127.0.0.1:8017`; with the proxy's prefix where there is one.
        token: of the server.
        patience_s: for how long a server that does not answer is tried again.

    Raises:
        RemoteError: the URL is none.
    """

    @checked(RemoteError)
    def __init__(self, url: str, token: str | None = None, patience_s: Positive = PATIENCE_S) -> None:
        if not url.startswith(("http://", "https://")):
            raise RemoteError(f"{url!r} is no address of a server; give one as 'http://127.0.0.1:8017'")
        self.url = url.rstrip("/")
        self._token, self._patience = token, patience_s

    def __repr__(self) -> str:
        return f"Remote({self.url!r})"

    def studies(self) -> list[dict[str, Any]]:
        """Every study of its database."""
        found: list[dict[str, Any]] = self.get("studies")["studies"]
        return found

    @checked(RemoteError)
    def study(self, name: str) -> RemoteStudy:
        """A study; nothing is asked of the server yet."""
        return RemoteStudy(self, name)

    @checked(RemoteError)
    def create(
        self,
        name: str,
        *,
        space: Mapping[str, Any],
        objectives: Sequence[str],
        constraints: Sequence[str] = (),
        algorithm: str | Mapping[str, Any] = "surrogate",
        trials: Count = 100,
    ) -> RemoteStudy:
        """A new study from a space described in JSON (`nas.space.plain`); the server runs its algorithm.

        Raises:
            RemoteError: there is one of that name, or something in it is not usable.
        """
        body = {
            "name": name,
            "space": dict(space),
            "objectives": list(objectives),
            "constraints": list(constraints),
            "algorithm": algorithm if isinstance(algorithm, str) else dict(algorithm),
            "trials": trials,
        }
        self.post("studies", body)
        return RemoteStudy(self, name)

    def get(self, path: str, **query: Any) -> Any:
        """What the API has at a path.

        Raises:
            RemoteError: the server refuses, or does not answer.
        """
        given = {name: value for name, value in query.items() if value is not None}
        return self._asked("GET", f"{path}{f'?{urlencode(given, doseq=True)}' if given else ''}", None)

    def post(self, path: str, body: Mapping[str, Any]) -> Any:
        """What the API answers to a body.

        Raises:
            RemoteError: the server refuses, or does not answer.
        """
        return self._asked("POST", path, json.dumps(body).encode())

    def _asked(self, method: str, path: str, body: bytes | None) -> Any:
        headers = {"Accept": "application/json"}
        if body is not None:
            headers["Content-Type"] = "application/json"
        if self._token is not None:
            headers["Authorization"] = f"Bearer {self._token}"
        request = urllib.request.Request(f"{self.url}/api/v1/{path}", body, headers, method=method)
        deadline, wait = time.monotonic() + self._patience, 0.1
        while True:
            try:
                with urllib.request.urlopen(request, timeout=max(self._patience, 1.0)) as answer:
                    text = answer.read()
                return json.loads(text) if text else None
            except urllib.error.HTTPError as error:
                refused = _refused(error)
                if error.code not in (502, 503, 504) or time.monotonic() > deadline:
                    raise refused from None
            except (OSError, HTTPException, ValueError) as error:
                if time.monotonic() > deadline:
                    raise RemoteError(f"server {self.url} does not answer ({brief(error, 200)})") from None
            time.sleep(wait * _jitter.uniform(0.5, 1.0))
            wait = min(2 * wait, 5.0)


class RemoteStudy:
    """A study of a server; made by `Remote.study` and `Remote.create`.

    Args:
        remote: the server.
        name: of the study.
    """

    def __init__(self, remote: Remote, name: str) -> None:
        self.name = name
        self._remote, self._path = remote, f"studies/{quote(name, safe='')}"
        self._holding: dict[str, set[int]] = {}
        self._lock = threading.Lock()
        self.done = False
        """Whether the last `ask` said that there will be no more trials."""

    def __repr__(self) -> str:
        return f"RemoteStudy({self.name!r} of {self._remote.url})"

    def declaration(self) -> dict[str, Any]:
        """What it is, and how far."""
        found: dict[str, Any] = self._remote.get(self._path)
        return found

    @checked(RemoteError)
    def ask(self, worker: str, count: Count = 1, lease_s: Positive = LEASE_S) -> list[RemoteTrial]:
        """Up to `count` trials to evaluate; none where the algorithm waits for results, or (`done`) has no more.

        Args:
            worker: a name of this process alone: trials that it holds and does not know of come again.
            count: at most so many.
            lease_s: seconds for which they are its own; `heartbeat` keeps them longer.
        """
        with self._lock:
            holding = sorted(self._holding.setdefault(worker, set()))
        body = {"worker": worker, "count": count, "holding": holding, "lease_s": lease_s}
        found = self._remote.post(f"{self._path}/ask", body)
        trials = [
            RemoteTrial(one["number"], one["attempt"], one["choices"], one["row"], one.get("value"))
            for one in found["trials"]
        ]
        with self._lock:
            self._holding[worker].update(one.number for one in trials)
            self.done = bool(found["done"])
        return trials

    @checked(RemoteError)
    def heartbeat(self, worker: str, lease_s: Positive = LEASE_S) -> int:
        """Keep what a worker holds for `lease_s` from now; how many trials that is."""
        return int(self._remote.post(f"{self._path}/heartbeat", {"worker": worker, "lease_s": lease_s})["held"])

    @checked(RemoteError)
    def tell(
        self,
        worker: str,
        trial: RemoteTrial,
        measurements: Mapping[str, Any] | None,
        *,
        reason: str | None = None,
        infeasible: bool = False,
        duration_s: float | None = None,
    ) -> dict[str, Any]:
        """How a trial ended; what the server then has of it.

        Args:
            worker: that asked for it.
            trial: which.
            measurements: by metric; None if it failed.
            reason: why it failed or is infeasible.
            infeasible: the arch cannot be used.
            duration_s: what the evaluation took.

        Raises:
            RemoteError: the worker holds it no longer, or told something else before (status 409).
        """
        result = _result(trial, measurements, reason=reason, infeasible=infeasible, duration_s=duration_s)
        answer: dict[str, Any] = self._told(worker, [result])["results"][0]
        return answer

    @checked(RemoteError)
    def tell_all(self, worker: str, results: Sequence[tuple[RemoteTrial, Mapping[str, Any] | None]]) -> int:
        """Many results in one request: each trial with its measurements, or None if it failed; how many were accepted."""
        if not results:
            return 0
        try:
            found = self._told(worker, [_result(trial, measurements) for trial, measurements in results])
        except RemoteError as error:
            if error.status != 409:
                raise
            found = error.problem
        return sum(one["status"] == 200 for one in found["results"])

    def _told(self, worker: str, results: Sequence[Mapping[str, Any]]) -> Any:
        try:
            return self._remote.post(f"{self._path}/tell", {"worker": worker, "results": list(results)})
        finally:
            with self._lock:
                self._holding.get(worker, set()).difference_update(one["number"] for one in results)

    @checked(RemoteError)
    def step(self, worker: str, trial: RemoteTrial, step: Natural, measurements: Mapping[str, float]) -> None:
        """Intermediate values of a trial.

        Raises:
            RemoteError: the worker holds it no longer (status 409).
        """
        steps = [{"step": step, "measurements": dict(measurements)}]
        result = {"number": trial.number, "attempt": trial.attempt, "steps": steps}
        self._remote.post(f"{self._path}/tell", {"worker": worker, "results": [result]})

    @checked(RemoteError)
    def run(
        self,
        evaluate: Callable[[Any], Mapping[str, float]],
        worker: str,
        *,
        trials: Count | None = None,
        lease_s: Positive = LEASE_S,
        wait_s: Positive = 1.0,
    ) -> int:
        """Evaluate until the study has no more trials, or `trials` of them here; how many were evaluated.

        Args:
            evaluate: from choices (of a study declared in JSON: the whole value) to measurements.  `nas.Infeasible` says that an
                arch cannot be used, any other exception that its evaluation failed.
            worker: a name of this process alone.
            trials: at most so many.
            lease_s: seconds of a lease, which is kept while an evaluation takes longer.
            wait_s: before the server is asked again, where it waits for results.
        """
        ended = threading.Event()
        beating = threading.Thread(target=self._beat, args=(worker, lease_s, ended), daemon=True)
        beating.start()
        evaluated = 0
        try:
            while trials is None or evaluated < trials:
                found = self.ask(worker, 1, lease_s)
                if not found and self.done:
                    break
                for one in found:
                    self._evaluate(evaluate, worker, one)
                    evaluated += 1
                if not found:
                    time.sleep(wait_s)
        finally:
            ended.set()
        return evaluated

    def _evaluate(self, evaluate: Callable[[Any], Mapping[str, float]], worker: str, one: RemoteTrial) -> None:
        begun = time.monotonic()
        measurements: Mapping[str, float] | None = None
        reason, infeasible = None, False
        with interrupts() as is_interrupt:
            try:
                measurements = evaluate(one.choices if one.value is None else one.value)
            except Infeasible as error:
                measurements, reason, infeasible = error.measurements, error.reason, True
            except BaseException as error:
                if is_interrupt(error):
                    raise
                reason = describe(error)
        try:
            self.tell(
                worker, one, measurements, reason=reason, infeasible=infeasible, duration_s=time.monotonic() - begun
            )
        except RemoteError as error:
            if error.status != 409:
                raise
            # The lease had ended, and somebody else evaluates it.

    def _beat(self, worker: str, lease_s: float, ended: threading.Event) -> None:
        while not ended.wait(lease_s / 3):
            try:
                self.heartbeat(worker, lease_s)
            except RemoteError:
                continue  # the next ask or tell says what is wrong

    def front(self, where: str | None = None, objectives: str | None = None) -> pd.DataFrame:
        """The Pareto front, as `Study.front` gives it.

        Raises:
            RemoteError: the filter does not parse, or an objective was never measured.
        """
        return _frame(self._remote.get(f"{self._path}/front", where=where, objectives=objectives)["trials"])

    def trials(self, where: str | None = None, *, start: int = 0, count: int = 1000) -> pd.DataFrame:
        """Trials by number, at most 1,000 of those that satisfy a filter."""
        return _frame(self._remote.get(f"{self._path}/trials", where=where, start=start, count=count)["trials"])


def _result(
    trial: RemoteTrial,
    measurements: Mapping[str, Any] | None,
    *,
    reason: str | None = None,
    infeasible: bool = False,
    duration_s: float | None = None,
) -> dict[str, Any]:
    """How a trial ended, as the server reads it."""
    values, fault = usable(measurements or {})
    failed = measurements is None or fault is not None
    return {
        "number": trial.number,
        "attempt": trial.attempt,
        "state": "INFEASIBLE" if infeasible else "FAILED" if failed else "COMPLETED",
        "measurements": {name: float(value) for name, value in values.items()},
        "reason": reason or fault,
        "duration_s": duration_s,
    }


def _refused(error: urllib.error.HTTPError) -> RemoteError:
    try:
        problem = json.loads(error.read())
        detail = str(problem["detail"])
    except (OSError, ValueError, LookupError, TypeError, HTTPException):
        return RemoteError(f"the server answered {error.code} {error.reason}", error.code)
    return RemoteError(detail, error.code, problem)


def _frame(rows: Sequence[Mapping[str, Any]]) -> pd.DataFrame:
    import pandas as pd

    table = [{**one["measurements"], "state": one["state"], "choices": one["choices"]} for one in rows]
    return pd.DataFrame(table, index=pd.Index([one["number"] for one in rows], name="number"))
