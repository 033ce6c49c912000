"""What requests may say: names, counts, results.  Anything else is refused before it is looked at."""

from __future__ import annotations

from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field

MOST_ASKED, MOST_TOLD, MOST_STEPS = 1000, 1000, 1000

WorkerName = Annotated[
    str,
    Field(pattern=r"^[A-Za-z0-9][A-Za-z0-9_.:@+-]{0,99}$", description="Of one process: it gets what it holds again."),
]
Number = Annotated[int, Field(ge=0, lt=2**31)]
Seconds = Annotated[float, Field(gt=0, le=86_400, allow_inf_nan=False)]
MetricName = Annotated[str, Field(min_length=1, max_length=100)]


class Body(BaseModel):
    """A body without members that nobody reads."""

    model_config = ConfigDict(extra="forbid")


class NewStudy(Body):
    """A study from a space described in JSON."""

    name: Annotated[str, Field(min_length=1, max_length=200)]
    space: Annotated[dict[str, Any], Field(description="See the guide: choice, int, float, many, permutation, when.")]
    objectives: Annotated[list[Annotated[str, Field(max_length=200)]], Field(min_length=1, max_length=8)]
    constraints: Annotated[list[Annotated[str, Field(max_length=200)]], Field(max_length=32)] = []
    algorithm: Annotated[str, Field(max_length=60)] | dict[str, Any] = "surrogate"
    trials: Annotated[int, Field(ge=1, le=10_000_000)] = 100


class Ask(Body):
    """A worker wants trials."""

    worker: WorkerName
    count: Annotated[int, Field(ge=1, le=MOST_ASKED)] = 1
    holding: Annotated[
        list[Number],
        Field(max_length=10_000, description="Trials that it evaluates now; others that are leased to it come again."),
    ] = []
    lease_s: Seconds = 60.0


class Heartbeat(Body):
    """A worker lives; everything that is leased to it stays so."""

    worker: WorkerName
    lease_s: Seconds = 60.0


class Step(Body):
    """Intermediate values."""

    step: Annotated[int, Field(ge=0, lt=2**31)]
    measurements: Annotated[dict[MetricName, float], Field(max_length=100)]


class Result(Body):
    """How a trial ended, or (without a state) how far it is."""

    number: Number
    attempt: Annotated[int, Field(ge=0, lt=2**31, description="As it was handed out.")]
    state: Literal["COMPLETED", "INFEASIBLE", "FAILED"] | None = None
    measurements: Annotated[dict[MetricName, float], Field(max_length=1000)] = {}
    reason: Annotated[str, Field(max_length=10_000)] | None = None
    duration_s: Annotated[float, Field(ge=0, allow_inf_nan=False)] | None = None
    steps: Annotated[list[Step], Field(max_length=MOST_STEPS)] = []


class Tell(Body):
    """Results of a worker."""

    worker: WorkerName
    results: Annotated[list[Result], Field(min_length=1, max_length=MOST_TOLD)]


class Login(Body):
    """The server's token."""

    token: Annotated[str, Field(max_length=1000)]


class StartJob(Body):
    """How a job is run."""

    trials: Annotated[int, Field(ge=1, le=10_000_000)] | None = None
    workers: Annotated[int, Field(ge=0, le=1024)] = 2
    time_limit_s: Annotated[float, Field(gt=0, le=1e7, allow_inf_nan=False)] | None = None
    address: Annotated[str, Field(pattern=r"^[A-Za-z0-9._\[\]:-]{1,200}:[0-9]{1,5}$")] | None = None


class MakeFile(Body):
    """Which network, and as what."""

    trial: Number | None = None
    format: Literal["extract", "safetensors", "onnx", "pt2", "pretrained", "elastic"]
