"""The best archs of a model that adds up, exactly: integer programs over the candidates of all decisions."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterator, Sequence
from typing import TYPE_CHECKING, NamedTuple

import numpy as np
import scipy  # a part of it, as scipy.optimize, is imported when it is first used
from numpy.typing import NDArray

from nas.search.improvement import Region
from nas.search.replacements import Replacements
from nas.search.sums import Sum

if TYPE_CHECKING:
    from nas.space import Arch, Space

Floats = NDArray[np.float64]

RANGE = 10.0  # of an objective in an integer program, whose tolerances are absolute
DIGITS = 8  # of coefficients: units of a metric move later ones, and must change no proposal
STRICTLY = 1e-5  # by how much of RANGE an arch must be better
NODES = 100  # of a branch-and-bound tree: what takes more is mostly proof that a box has no arch
# Boxes that are searched at most, until something is found; those of them that are searched anyway; archs excluded meanwhile.
PROGRAMS, ENOUGH, CUTS = 24, 3, 12
DIRECTIONS = {1: 1, 2: 65, 3: 9, 4: 5}  # steps of weights between two objectives, by the number of objectives
FEW = 3
LEAST_WEIGHT = 1e-3
TINY = 1e-300


class Limit(NamedTuple):
    """A bound on a metric, which is kept with its model's error to spare."""

    metric: Sum
    op: str
    bound: float


class Composition(NamedTuple):
    """An arch and what it should measure."""

    arch: Arch
    values: Floats
    """(m,) minimised."""
    gain: float
    """In hypervolume, over what was given."""


class _Row(NamedTuple):
    """A linear constraint."""

    variables: list[int]
    factors: list[float]
    low: float
    high: float


class Composer:
    """Finds the arch that should add most to the hypervolume of a front.

    What is dominated by no point of a front is a union of boxes, each given by its upper corner.  For a set of weights the sum
    of the weighted objectives has a lower bound, which bounds what an arch in a box can add.  In the boxes in which that is
    most, integer programs minimise the sum whose bound is tightest there: nothing that the model knows dominates the arch that
    is found.

    Args:
        space: of the archs.
        replacements: columns of archs.
        objectives: models of the minimised objectives.
        limits: constraints.
        usable: (width,) columns whose effect is known; archs have no others.
    """

    def __init__(
        self,
        space: Space,
        replacements: Replacements,
        objectives: Sequence[Sum],
        limits: Sequence[Limit],
        usable: NDArray[np.bool_],
    ) -> None:
        self._space, self._replacements, self._objectives = space, replacements, objectives
        self._count = len(objectives)
        self._empty: set[bytes] = set()  # corners of boxes without an arch: it stays so when more is on the front
        metrics = [*objectives, *(limit.metric for limit in limits)]
        pairs = list(dict.fromkeys(pair for metric in metrics for pair in metric.pairs))
        self._program = _Program(space, replacements, usable, pairs)
        costs = [self._program.costs(metric) for metric in objectives]
        reach = [max(self._program.reach(cost), TINY) / RANGE for cost in costs]
        self._scales, self._offsets = np.array(reach), np.array([metric.offset for metric in objectives])
        self._costs = np.round(np.array(costs) / self._scales[:, None], DIGITS)
        for limit in limits:
            self._limit(limit)
        self._weights = _weights(len(objectives))
        self._bounds = np.array([self._program.least(weights @ self._costs) for weights in self._weights])

    def best(
        self, front: Floats, reference: Floats, wanted: Callable[[Arch], bool], excluded: Sequence[Arch] = ()
    ) -> Composition | None:
        """The arch that should add most, of those that were looked for; None if none should add anything.

        Args:
            front: (k, m) points, minimised.
            reference: (m,) upper bound of what counts.
            wanted: whether an arch may be proposed.
            excluded: archs that may not, for which no program needs to be solved again.
        """
        region = Region(front, reference)
        found: Composition | None = None
        cuts = [cut for cut in map(self._program.cut, excluded) if cut is not None]
        tries = CUTS
        boxes = [box for box in self._boxes(region) if box[0].tobytes() not in self._empty]
        for at, (corner, weights, most) in enumerate(boxes[:PROGRAMS]):
            if found is not None and (at >= ENOUGH or most <= found.gain):
                break
            while tries:
                chosen = self._program.solve(weights @ self._costs, self._costs, corner - STRICTLY, cuts)
                if chosen is None:
                    self._empty.add(corner.tobytes())
                    break
                arch = self._program.arch(chosen)
                if self._space.allows(arch) and wanted(arch):
                    values = self.predicted(arch)
                    gain = float(region.gains([values[[at], None] for at in range(len(values))], np.ones(1))[0])
                    if gain > 0 and (found is None or gain > found.gain):
                        found = Composition(arch, values, gain)
                    break
                cuts.append(chosen)
                tries -= 1
        return found

    def ends(self) -> list[Floats]:
        """(1, m) predictions for the archs that are best in each objective, where there are several."""
        weights = np.full((self._count, self._count), LEAST_WEIGHT) + np.eye(self._count) if self._count > 1 else ()
        rows = [self._program.best(one @ self._costs) for one in weights]
        return [self.predicted(self._program.arch(chosen))[None] for chosen in rows if chosen is not None]

    def _limit(self, limit: Limit) -> None:
        metric, sign = limit.metric, 1.0 if limit.op in ("<", "<=") else -1.0
        cost = sign * self._program.costs(metric)
        scale = max(self._program.reach(cost), TINY) / RANGE
        spare = 0.0 if np.isnan(metric.error) else metric.error
        bound = sign * (float(metric.of(np.array([limit.bound - sign * spare]))[0]) - metric.offset) / scale
        strictly = 0.0 if limit.op in ("<=", ">=") else STRICTLY
        self._program.limit(np.round(cost / scale, DIGITS), round(bound - strictly, DIGITS))

    def supported(self) -> list[Arch]:
        """Archs that minimise a weighted sum, where decisions are independent and nothing limits them."""
        rows = [self._program.argmin(weights @ self._costs) for weights in self._weights]
        return list({arch.key: arch for arch in map(self._program.arch, filter(None, rows))}.values())

    def predicted(self, arch: Arch) -> Floats:
        """(m,) minimised objectives that an arch should have."""
        columns = self._replacements([arch])
        return np.array([metric(columns)[0] for metric in self._objectives])

    def _boxes(self, region: Region) -> list[tuple[Floats, Floats, float]]:
        """Upper corners in units of the program, weights of the sum that is minimised there, and what it can add at most.

        The last is in units of the hypervolume where all objectives are linear, else infinite.
        """
        corners = np.stack([edges[high] for edges, high in zip(region.edges, region.high, strict=True)], 1)
        corners = np.unique(corners, axis=0)
        units = np.stack([metric.of(column) for metric, column in zip(self._objectives, corners.T, strict=True)], 1)
        units = np.round((units - self._offsets) / self._scales, DIGITS)
        # An arch within a corner by amounts a has Σ w·a at most the slack, so Π a is at most (slack / m)^m / Π w.
        slack = np.maximum(units @ self._weights.T - self._bounds, 0.0) / units.shape[1]
        most = slack ** units.shape[1] / self._weights.prod(1)
        tightest = most.argmin(1)
        most = most[np.arange(len(units)), tightest]
        order = np.argsort(-np.round(most / max(float(most.max(initial=0.0)), TINY), 9), kind="stable")
        volume = np.inf if any(metric.logarithmic for metric in self._objectives) else float(self._scales.prod())
        return [
            (units[at], self._weights[tightest[at]], float(most[at]) * volume) for at in order.tolist() if most[at] > 0
        ]


class _Program:
    """0/1 variables for candidates of decisions and for pairs of columns, and what makes them an arch."""

    def __init__(
        self,
        space: Space,
        replacements: Replacements,
        usable: NDArray[np.bool_],
        pairs: Sequence[tuple[int, int]],
    ) -> None:
        self._space, self._pairs = space, pairs
        self._genes = [(at, gene) for at, genes in enumerate(replacements.genes) for gene in genes]
        self._variable = {key: variable for variable, key in enumerate(self._genes)}
        self._starts = np.cumsum([0, *map(len, replacements.genes)])
        self._table = scipy.sparse.block_diag([np.zeros((0, 0)), *replacements.tables], format="csr")
        self._usable = self._table @ (~usable).astype(np.float64) == 0
        self._rows: list[_Row] = [*self._decisions(), *self._groups(), *self._products()]
        self._free = space.plain is not None and not pairs  # an arch is any choice of candidates

    @property
    def _width(self) -> int:
        return len(self._genes) + len(self._pairs)

    def costs(self, metric: Sum) -> Floats:
        """(variables,) what each of them adds to a metric."""
        together = dict(zip(metric.pairs, metric.together.tolist(), strict=True))
        return np.append(self._table @ metric.effects, [together.get(pair, 0.0) for pair in self._pairs])

    def reach(self, costs: Floats) -> float:
        """How far sums of costs may be apart, about."""
        parts = self._by_decision(costs)
        return sum(float(part.max() - part.min()) for part in parts) + float(np.abs(costs[len(self._genes) :]).sum())

    def least(self, costs: Floats) -> float:
        """What no arch's sum of costs is below."""
        found = float(np.minimum(costs[len(self._genes) :], 0.0).sum())
        for part, decision in zip(self._by_decision(costs), self._space.decisions, strict=True):
            found += float(part.min()) if decision.point.parent < 0 else min(0.0, float(part.min()))
        return found

    def argmin(self, costs: Floats) -> list[int] | None:
        """Variables of the arch whose sum of costs is least; None if it takes an integer program to tell."""
        if not self._free:
            return None
        wanted = np.where(self._usable, costs, np.inf)
        return [int(start + np.argmin(wanted[start:end])) for start, end in itertools.pairwise(self._starts.tolist())]

    def best(self, costs: Floats) -> list[int] | None:
        """The same by whatever it takes; None where no arch is within the limits, or none was found."""
        return self.argmin(costs) or self.solve(costs, np.zeros((0, self._width)), np.zeros(0), ())

    def limit(self, costs: Floats, bound: float) -> None:
        """Only archs whose sum of these costs is at most a bound."""
        self._rows.append(_Row(list(range(len(costs))), costs.tolist(), -np.inf, bound))
        self._free = False

    def cut(self, arch: Arch) -> list[int] | None:
        """Variables of an arch; None if it has what the program does not."""
        chosen = [self._variable.get((at, gene)) for at, gene in enumerate(arch.genome) if gene is not None]
        known = [variable for variable in chosen if variable is not None]
        return known if len(known) == len(chosen) else None

    def arch(self, chosen: Sequence[int]) -> Arch:
        """The arch of its variables."""
        genome: list[int | float | None] = [None] * len(self._space.decisions)
        for variable in chosen:
            at, gene = self._genes[variable]
            genome[at] = gene
        return self._space.from_row(genome)

    def solve(self, costs: Floats, bounded: Floats, bounds: Floats, cuts: Sequence[Sequence[int]]) -> list[int] | None:
        """Variables of an arch with the least sum of costs; None if there is no arch, or none was found.

        Args:
            costs: (variables,).
            bounded: (k, variables) further costs.
            bounds: (k,) what their sums are at most.
            cuts: variables of archs that are excluded.
        """
        if not self._genes:
            return None
        limits = [
            _Row([*range(self._width)], row, -np.inf, high) for row, high in zip(bounded.tolist(), bounds, strict=True)
        ]
        rows = [*self._rows, *limits, *(_Row(list(cut), [1.0] * len(cut), -np.inf, len(cut) - 1.0) for cut in cuts)]
        sizes = [len(row.variables) for row in rows]
        matrix = scipy.sparse.csr_array(
            (
                list(itertools.chain.from_iterable(row.factors for row in rows)),
                list(itertools.chain.from_iterable(row.variables for row in rows)),
                np.cumsum([0, *sizes]),
            ),
            shape=(len(rows), self._width),
        )
        matrix.sum_duplicates()  # and sort, as HiGHS wants it
        found = scipy.optimize.milp(
            costs,
            integrality=np.ones(self._width),
            bounds=scipy.optimize.Bounds(0.0, np.append(self._usable, np.ones(len(self._pairs))).astype(float)),
            constraints=scipy.optimize.LinearConstraint(matrix, [row.low for row in rows], [row.high for row in rows]),
            options={"mip_rel_gap": 0.0, "node_limit": NODES},
        )
        return None if found.x is None else np.flatnonzero(found.x[: len(self._genes)] > 0.5).tolist()

    def _by_decision(self, costs: Floats) -> list[Floats]:
        """Costs of the usable candidates of each decision; the base has one at least."""
        return [costs[start:end][self._usable[start:end]] for start, end in itertools.pairwise(self._starts.tolist())]

    def _of(self, decision: int) -> list[int]:
        return list(range(self._starts[decision], self._starts[decision + 1]))

    def _decisions(self) -> Iterator[_Row]:
        """One candidate of each decision that is active."""
        for decision in self._space.decisions:
            own, point = self._of(decision.index), decision.point
            if point.parent < 0:
                yield _Row(own, [1.0] * len(own), 1.0, 1.0)
                continue
            above = [variable for variable in self._of(point.parent) if self._genes[variable][1] in point.allowed]
            yield _Row([*own, *above], [1.0] * len(own) + [-1.0] * len(above), 0.0, 0.0)

    def _groups(self) -> Iterator[_Row]:
        """Candidates of slots differ, or do not descend."""
        for decision in self._space.decisions:
            group = decision.point.group
            if group is None or group.slots[0] != decision.index:
                continue
            if group.distinct:
                for candidate in range(group.n):
                    same = [
                        self._variable[slot, candidate] for slot in group.slots if (slot, candidate) in self._variable
                    ]
                    yield _Row(same, [1.0] * len(same), -np.inf, 1.0)
            for one, other in itertools.pairwise(group.slots) if group.sorted else ():
                before, after = self._of(one), self._of(other)
                step = float(group.distinct)
                factors = [-step - self._genes[variable][1] for variable in before]
                yield _Row(
                    [*before, *after], [*factors, *(float(self._genes[variable][1]) for variable in after)], 0.0, np.inf
                )

    def _products(self) -> Iterator[_Row]:
        """A pair's variable is 1 where both of its columns are (Fortet 1960; McCormick 1976)."""
        columns = self._table.tocsc()
        for at, pair in enumerate(self._pairs, len(self._genes)):
            parts = [columns[:, [column]].tocoo() for column in pair]
            both: list[int] = []
            factors: list[float] = []
            for part in parts:
                variables, values = part.coords[0].tolist(), part.data.tolist()
                yield _Row([at, *variables], [1.0, *(-value for value in values)], -np.inf, 0.0)
                both += variables
                factors += values
            yield _Row([at, *both], [1.0, *(-value for value in factors)], -1.0, np.inf)


def _weights(objectives: int) -> Floats:
    """(k, m) positive weights that sum to 1, spread evenly; more of them near the ends with two objectives."""
    steps = DIRECTIONS.get(objectives, FEW)
    if objectives == 2:
        one = 1.0 / (1.0 + np.exp(np.linspace(-6.0, 6.0, steps)))
        return np.stack([one, 1.0 - one], 1)
    marks = itertools.combinations(range(steps + objectives - 2), objectives - 1)
    ends = [np.diff([-1, *mark, steps + objectives - 2]) - 1.0 for mark in marks]
    weights = np.array(ends) / max(steps - 1, 1) + LEAST_WEIGHT
    return np.asarray(weights / weights.sum(1, keepdims=True))
