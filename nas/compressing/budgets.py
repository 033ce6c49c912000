"""What a smaller network may cost: "latency_ms <= 5", "params <= 0.5 * original", "macs <= 60%", "50%"."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from nas.checking import checked
from nas.errors import MetricError, suggest
from nas.metrics import Constraint, check_name, parse_constraint
from nas.text import human

JOINT = (
    "one network within several bounds at once is not offered here; a study finds one: nas.Study(space=nas.elastic(…), "
    "constraints=['macs <= …', 'params <= …'], …)"
)
_AND = re.compile(r"&|\band\b", re.IGNORECASE)
_BOUND = re.compile(
    r"\s*(?:(?P<name>[A-Za-z_]\w*)\s*(?P<op><=|<)\s*)?"
    r"(?:(?P<percent>[0-9._eE+-]+)\s*%|(?P<share>[0-9._eE+-]+)\s*\*\s*original)(?:\s*(?:of|\*)\s*(?:the\s+)?original)?\s*\Z"
)


@checked(MetricError)
@dataclass(frozen=True)
class Budget:
    """The most that a metric may be: a number, or a share of what the original network measures.

    Args:
        metric: that must not exceed it.
        bound: in the metric's unit; None where a share is given.
        share: of the original's, above 0 and below 1; None where a bound is given.

    Raises:
        MetricError: both or neither is given, or the share is none.
    """

    metric: str
    bound: float | None = None
    share: float | None = None

    def __post_init__(self) -> None:
        check_name(self.metric)
        if (self.bound is None) == (self.share is None):
            raise MetricError(f"the budget on {self.metric!r} is a bound or a share of the original; give one of them")
        if self.share is not None and not 0.0 < self.share < 1.0:
            raise MetricError(
                f"the budget on {self.metric!r} is {self.share:g} of the original; a share is above 0 and below 1, as in "
                f"'{self.metric} <= 0.6 * original'"
            )

    def constraint(self, original: Mapping[str, float]) -> Constraint:
        """The budget as a bound, given what the original measures.

        Raises:
            MetricError: it does not measure the metric.
        """
        if self.bound is not None:
            return Constraint(self.metric, "<=", self.bound)
        assert self.share is not None
        return Constraint(self.metric, "<=", self.share * self.of(original, "the original"))

    def of(self, measured: Mapping[str, float], whom: str) -> float:
        """What a network measures of the budget's metric.

        Args:
            measured: of the network.
            whom: the network, for the sentence.

        Raises:
            MetricError: it does not measure the metric.
        """
        if self.metric not in measured:
            raise MetricError(
                f"the budget {self} is on what is not measured of {whom}, which has {', '.join(measured)}"
                f"{suggest(self.metric, measured)}"
            )
        return measured[self.metric]

    @property
    def exact(self) -> str:
        """As `parse_budget` reads it again, to the bit."""
        value = self.share if self.bound is None else self.bound
        assert value is not None
        number = str(int(value)) if float(value).is_integer() else repr(float(value))
        return f"{self.metric} <= {number}" + ("" if self.share is None else " * original")

    def __str__(self) -> str:
        if self.share is not None:
            return f"{self.metric} <= {self.share:g} * original"
        assert self.bound is not None
        return f"{self.metric} <= {human(self.bound)}"


@checked(MetricError)
def parse_budget(budget: str | float | Budget, usual: str = "macs") -> Budget:
    """A budget as a person writes it.

    >>> parse_budget("latency_ms <= 0.6 * original").share, parse_budget("50%").metric, parse_budget("params <= 50_000").bound
    (0.6, 'macs', 50000.0)

    Args:
        budget: "NAME <= NUMBER", "NAME <= SHARE * original", "NAME <= PERCENT%", or "PERCENT%" and a share alone, which are of
            `usual`.
        usual: metric of a budget that names none.

    Raises:
        MetricError: it is not of that form.
    """
    if isinstance(budget, Budget):
        return budget
    if isinstance(budget, str) and _AND.search(budget):
        raise MetricError(f"budget {budget!r} is of several bounds; {JOINT}")
    if isinstance(budget, float | int):
        return Budget(usual, share=float(budget))
    if match := _BOUND.match(budget):
        name = match["name"] or usual
        try:
            share = float(match["percent"]) / 100 if match["percent"] else float(match["share"])
        except ValueError:
            raise _not_understood(budget) from None
        return Budget(name, share=share)
    try:
        found = parse_constraint(budget)
    except MetricError:
        raise _not_understood(budget) from None
    if found.op not in ("<=", "<"):
        raise MetricError(
            f"budget {budget!r} says what a network must have at least; a budget is the most: {found.metric} <= …"
        )
    return Budget(found.metric, bound=found.bound)


def parse_budgets(
    budgets: str | float | Budget | Sequence[str | float | Budget], usual: str = "macs"
) -> tuple[Budget, ...]:
    """One budget or several, "latency_ms <= 5, params <= 60%" too: each is met by a network of its own.

    Raises:
        MetricError: one is not of that form, or there is none.
    """
    given = (
        budgets.split(",")
        if isinstance(budgets, str)
        else [budgets]
        if isinstance(budgets, float | int | Budget)
        else budgets
    )
    found = tuple(parse_budget(one, usual) for one in given)
    if not found:
        raise MetricError("there is no budget; give one, as in 'latency_ms <= 0.6 * original'")
    return found


def _not_understood(budget: str) -> MetricError:
    return MetricError(
        f"budget {budget!r} is not understood; write 'latency_ms <= 5', 'latency_ms <= 0.6 * original', 'macs <= 60%' or '50%'"
    )
