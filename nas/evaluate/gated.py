"""An evaluator that is asked only for archs whose earlier measurements are good enough: objectives of unequal cost.

Imports no torch: a worker that runs a user's own functions starts in a fraction of a second.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping, Sequence
from typing import TYPE_CHECKING, Any

from nas.checking import checked
from nas.errors import EvaluationError, MetricError, glimpse
from nas.evaluate.base import Evaluator, EvaluatorLike, adapted, every, settings_of
from nas.metrics import Constraint, parse_constraint

if TYPE_CHECKING:
    from nas.space import Arch, Space


class Gated(Evaluator):
    """`evaluator`, asked only for archs that meet `where` by what the evaluators before it have measured.

    The conditions are constraints of the study.  An arch that misses one is INFEASIBLE as soon as that is known: its trial keeps
    what was measured until then, says why nothing more was, and by how much the condition was missed, which the search learns
    from.  Beside a constraint of the study this says which evaluator comes after which: where evaluators need different nodes
    of a cluster (`nas.needs`), and whatever the costs that they declare.  A condition on what is measured later, or not at all,
    is refused before anything is evaluated.

    >>> nas.Gated(nas.Latency(supernet), where="accuracy >= 0.7")  # doctest: +SKIP

    Args:
        evaluator: what is expensive.
        where: constraints, as in `"accuracy >= 0.7 and params <= 50_000"`, or a list of them.

    Raises:
        EvaluationError: the evaluator cannot be called, or there is no condition.
        MetricError: a condition is ill-formed.
    """

    @checked(EvaluationError)
    def __init__(self, evaluator: EvaluatorLike, where: str | Constraint | Sequence[str | Constraint]) -> None:
        self.evaluator = adapted(evaluator)
        given: Iterable[str | Constraint] = [where] if isinstance(where, (str, Constraint)) else where
        parts = [part for one in given for part in (re.split(r"\s+and\s+", one) if isinstance(one, str) else [one])]
        try:
            self.where = tuple(dict.fromkeys(parse_constraint(part) for part in parts))
        except MetricError as error:
            raise MetricError(f"Gated was given where={glimpse(where)}: {error}") from error
        if not self.where:
            raise EvaluationError("Gated has no condition; give where=, as in where='accuracy >= 0.7'")

    def __call__(self, arch: Arch) -> Mapping[str, float]:
        """What the evaluator measures; whether `arch` meets the conditions is known to who called the others."""
        return self.evaluator(arch)

    def check(self, space: Space) -> None:
        """As the evaluator does."""
        self.evaluator.check(space)

    def describe(self) -> dict[str, Any] | None:
        """The conditions and the evaluator; None where that is compared by class and attributes."""
        if self.evaluator.describe() is None:
            return None
        return {
            "name": "Gated",
            "where": [str(condition) for condition in self.where],
            "evaluator": settings_of(self.evaluator),
        }

    def inner(self) -> Sequence[Evaluator]:
        """The evaluator."""
        return (self.evaluator,)

    def bound(self, source: Any, task: Any) -> Gated:
        """As the evaluator is."""
        evaluator = self.evaluator.bound(source, task)
        return self if evaluator is self.evaluator else Gated(evaluator, self.where)


def _passed_on(name: str) -> property:
    def get(self: Gated) -> Any:
        return getattr(self.evaluator, name)

    def put(self: Gated, value: Any) -> None:
        setattr(self.evaluator, name, value)

    return property(get, put)


# What a study asks of the evaluators that it was given alone, not of those inside them.  The cost is not passed on: a search asks
# cheap ones for any arch.
for _name in (
    *("metrics", "exclusive", "needs", "fidelity"),
    *("remembers", "known", "has_progress", "progress", "has_epochs", "each_epoch", "has_levels", "up_to"),
):
    setattr(Gated, _name, _passed_on(_name))


def conditions(evaluators: Iterable[Evaluator]) -> list[Constraint]:
    """Of all that are asked only where, those inside others among them; each once."""
    found = [condition for one in every(evaluators) if isinstance(one, Gated) for condition in one.where]
    return list(dict.fromkeys(found))


def with_conditions(constraints: Sequence[Constraint], evaluators: Iterable[Evaluator]) -> tuple[Constraint, ...]:
    """Constraints, and those conditions that are none of them."""
    return (*constraints, *(one for one in conditions(evaluators) if one not in constraints))
