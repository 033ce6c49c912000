"""What an evaluator needs of the node of a cluster that it runs on."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, TypeVar

from nas.checking import Count, NonNegative, checked
from nas.errors import EvaluationError

E = TypeVar("E")


@dataclass(frozen=True)
class Needs:
    """What one worker reserves on Ray; see `needs`."""

    cpus: float = 1.0
    gpus: float = 0.0
    resources: tuple[tuple[str, float], ...] = ()
    whole_node: bool = False
    workers: int | None = None

    @property
    def reserved(self) -> dict[str, float]:
        """By Ray's names."""
        return {"CPU": self.cpus, "GPU": self.gpus, **dict(self.resources)}


@checked(EvaluationError)
def needs(
    evaluator: E,
    *,
    cpus: NonNegative = 1.0,
    gpus: NonNegative = 0.0,
    resources: Mapping[str, NonNegative] | None = None,
    whole_node: bool = False,
    workers: Count | None = None,
) -> E:
    """`evaluator`, which from now on says what it needs of a cluster: `nas.needs(nas.Latency(training), whole_node=True)`.

    On Ray, evaluators with equal needs share workers, and an arch goes from those that need nothing special to the others;
    one that violates a constraint goes no further.  Without Ray all workers are on this machine, and this changes nothing.

    Args:
        evaluator: an object or a function; it is changed.
        cpus: processors that a worker reserves; 0 reserves none.
        gpus: GPUs; a fraction shares one with other workers.
        resources: what nodes were started with, as in `ray start --resources '{"bench": 1}'`.
        whole_node: a node that nothing else runs on, for latencies; a Ray of one machine, which `nas run --ray` starts, has
            only the lock that keeps other work of ours away.
        workers: how many; as many as the run has, unless given.

    Raises:
        EvaluationError: a number is not usable, or nothing can be noted on `evaluator`.
    """
    wanted = {"cpus": cpus, "gpus": gpus, **(resources or {})}
    for name in resources or {}:
        if name.upper() in ("CPU", "GPU"):
            raise EvaluationError(f"needs of resources={{{name!r}: …}}; say {name.lower()}s={wanted[name]:g}")
    if gpus > 1 and gpus != int(gpus):
        raise EvaluationError(f"needs of gpus: {gpus!r}; give a fraction of one, or a whole number")
    found = Needs(float(cpus), float(gpus), tuple(sorted((resources or {}).items())), whole_node, workers)
    noted: Any = evaluator
    try:
        noted.needs = found
    except (AttributeError, TypeError):
        raise EvaluationError(
            f"evaluator is a {type(evaluator).__name__}, which cannot say what it needs; wrap it in a function of your own"
        ) from None
    return evaluator
