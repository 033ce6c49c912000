"""What every request asks for: the server's state, a study, a trial; and the parameters that several have."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated, Any

from fastapi import Query, Request

from nas.errors import brief
from nas.web.problems import Problem

if TYPE_CHECKING:
    from nas.store import StudyRecord
    from nas.web.state import State

WhereQuery = Annotated[
    str | None, Query(max_length=4000, description="A filter, as in latency_ms <= 2 and params < 50_000.")
]
ObjectivesQuery = Annotated[str | None, Query(max_length=1000, description="As in max accuracy, min params.")]
NameQuery = Annotated[str, Query(min_length=1, max_length=200)]


def state_of(request: Request) -> State:
    """The server's state."""
    found: State = request.app.state.nas
    return found


def record_of(request: Request, study: str) -> StudyRecord:
    """The study that a path names."""
    return state_of(request).opened.study(study)


def one_trial(record: StudyRecord, number: int) -> Any:
    """A trial by its number.

    Raises:
        Problem: there is none.
    """
    size = record.position().added
    if not 0 <= number < size:
        have = f"its trials are 0 to {size - 1}" if size else "it has no trials yet"
        raise Problem(404, f"study {record.name!r} has no trial {brief(number, 30)}; {have}")
    return record.trial(number)
