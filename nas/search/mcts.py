"""Monte-Carlo tree search over the decisions of a space.

Negrinho, Gordon 2017, "DeepArchitect: Automatically Designing and Training Deep Architectures"; Kocsis, Szepesvári 2006, "Bandit
Based Monte-Carlo Planning" (UCT); Liu et al. 2020, "Watch the Unobserved: A Simple Approach to Parallelizing Monte Carlo Tree
Search" (what is under way counts as visited).
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from math import inf, isfinite, log, sqrt
from typing import TYPE_CHECKING

from nas.checking import checked
from nas.choosing.steps import Choices, Steps
from nas.errors import AlgorithmError
from nas.search.base import Algorithm, Finished, is_feasible
from nas.search.options import number, switch, whole
from nas.search.steps import beside, weights

if TYPE_CHECKING:
    import random

    from nas.metrics import Constraint, Metric
    from nas.space import Arch, Space


class _Node:
    """What the finished trials below a sequence of choices have come to."""

    __slots__ = ("children", "feasible", "over", "sums", "violated", "visits")

    def __init__(self, objectives: int) -> None:
        self.children: dict[int, _Node] = {}
        self.visits = 0  # finished trials
        self.feasible = 0  # those of them that are feasible,
        self.sums = [0.0] * objectives  # and their values
        self.violated = 0  # those that are infeasible, as far as it is known how much,
        self.over = 0.0  # and their violations


class MCTS(Algorithm):
    """Walks down the tree of decisions by upper confidence bounds, and goes on at random where the tree ends.

    Each finished trial adds one node to the tree.  A child's bound is its mean reward plus
    `exploration` sqrt(2 ln N / n); children without a visit come first.  Trials that are under way count as visits without a
    reward yet, so that many workers do not follow one path.  The reward is the objective scaled by the best and the worst
    seen, so that it is between 0 and 1; of several objectives a weighted mean, with weights that each proposal draws anew
    (a linear scalarisation: ours, the paper has one objective).  Where trials were infeasible, feasible ones have the upper
    half of the scale and the others less the more they violate; failed ones have 0.  An arch that is known already is replaced by
    one beside it.

    Args:
        exploration: weight of the confidence bound.  1 in the paper, whose budgets were small trees; with more decisions than a
            budget can branch, as usual, that is hardly better than random (`experiments/search_quality`).
        bins: equal parts that a continuous decision is cut into.
        bisect: whether numbers are chosen by halving their range again and again (the paper's restructured tree), so that
            trials with numbers that are alike share what they know; else each number is a branch of its own.
        seed: names the sequence of random numbers.

    Raises:
        AlgorithmError: an option is not what it must be.
    """

    name = "mcts"

    @checked(AlgorithmError, called="name")
    def __init__(self, exploration: float = 0.1, bins: int = 10, seed: int = 0, *, bisect: bool = False) -> None:
        super().__init__(seed)
        self.exploration = number(self.name, "exploration", exploration, least=0.0)
        self.bins = whole(self.name, "bins", bins, 1)
        self.bisect = switch(self.name, "bisect", bisect)
        self._waiting: dict[str, Choices] = {}  # of the archs that have not finished, by key

    def bind(self, space: Space, objectives: Sequence[Metric], constraints: Sequence[Constraint] = ()) -> None:
        """As every algorithm's; the tree is empty then."""
        super().bind(space, objectives, constraints)
        self._steps = Steps(space, self.bins)
        self._tree = Tree(self._steps, len(objectives), self.exploration, bisect=self.bisect)

    def _take(self, arch: Arch) -> bool:
        new = super()._take(arch)
        if new:
            self._waiting[arch.key] = self._steps.choices(arch)
        return new

    def _ask(self, n: int) -> list[Arch]:
        return self._fill(n, self._draw)

    def _draw(self, rng: random.Random) -> Arch:
        arch = self._steps.arch(self._tree.walk(list(self._waiting.values()), rng), rng)
        return beside(arch, self._seen, rng)

    def _tell(self, trials: Sequence[Finished]) -> None:
        for trial in trials:
            self._waiting.pop(trial.arch.key, None)
            self._tree.learn(self._steps.choices(trial.arch), trial)


class Tree:
    """The tree of MCTS: statistics of finished trials, and the walk that they guide.

    Args:
        steps: the decisions.
        objectives: how many values a trial has.
        exploration: weight of the confidence bound.
        bisect: whether numbers are chosen by halving their range.
    """

    def __init__(self, steps: Steps, objectives: int, exploration: float, *, bisect: bool = False) -> None:
        self._steps, self._objectives, self._exploration, self._bisect = steps, objectives, exploration, bisect
        self._root = _Node(objectives)
        self._best = [inf] * objectives  # finite values seen
        self._worst = [-inf] * objectives
        self._most = 0.0  # largest finite violation seen
        self._trouble = False  # whether a trial was infeasible

    def learn(self, chosen: Sequence[int | None], trial: Finished) -> None:
        """Adds a trial to the nodes on its path, of which the last is new."""
        values = self._observed(trial)
        node = self._root
        self._add(node, trial, values)
        for branch in self._path(chosen):
            child = node.children.get(branch)
            if child is None:
                child = node.children[branch] = _Node(self._objectives)
                self._add(child, trial, values)
                return
            self._add(child, trial, values)
            node = child

    def _path(self, chosen: Sequence[int | None]) -> Iterator[int]:
        """The branch that these choices take at each node."""
        for p in self._steps.order:
            option = chosen[p]
            if option is None:
                continue
            options = self._steps.options(p, chosen) if self._bisect else (option,)
            while True:
                branches = self._branches(p, options)
                branch = _branch(option, branches)
                yield branch
                options = branches[branch]
                if len(options) == 1:
                    break

    def _branches(self, p: int, options: Sequence[int]) -> Mapping[int, Sequence[int]]:
        return self._steps.branches(p, options) if self._bisect else {option: (option,) for option in options}

    def _observed(self, trial: Finished) -> list[float] | None:
        """Its values if it is feasible, infinities replaced by the worst and the best seen; widens what was seen."""
        if not is_feasible(trial):
            self._trouble |= trial.state == "INFEASIBLE"
            self._most = max(self._most, trial.violation if isfinite(trial.violation) else 0.0)
            return None
        assert trial.values is not None
        for k, value in enumerate(trial.values):
            if isfinite(value):
                self._best[k], self._worst[k] = min(self._best[k], value), max(self._worst[k], value)
        bounds = zip(trial.values, self._best, self._worst, strict=True)
        return [min(max(value, best), worst) if best <= worst else 0.0 for value, best, worst in bounds]

    @staticmethod
    def _add(node: _Node, trial: Finished, values: list[float] | None) -> None:
        node.visits += 1
        if values is not None:
            node.feasible += 1
            node.sums = [a + b for a, b in zip(node.sums, values, strict=True)]
        elif trial.state == "INFEASIBLE" and 0 < trial.violation < inf:
            node.violated += 1
            node.over += trial.violation

    def walk(self, under_way: Sequence[Choices], rng: random.Random) -> Choices:
        """Choices for the next arch; `under_way` are those that were proposed and have not finished."""
        steps, weight = self._steps, weights(self._objectives, rng)
        chosen: Choices = [None] * steps.count
        node: _Node | None = self._root
        for p in steps.order:
            options = steps.options(p, chosen)
            while options and chosen[p] is None:
                options, node = self._descend(node, p, options, [path[p] for path in under_way], weight, rng)
                under_way = [path for path in under_way if path[p] in options]
                if len(options) == 1:
                    chosen[p] = options[0]
        return chosen

    def _descend(  # noqa: PLR0917 (called in one place)
        self,
        node: _Node | None,
        p: int,
        options: Sequence[int],
        taken: Sequence[int | None],
        weight: Sequence[float],
        rng: random.Random,
    ) -> tuple[Sequence[int], _Node | None]:
        """What is open of decision `p` one node further down, and that node; below what is known it is one option at random."""
        if len(options) > 1 and (node is None or not (node.children or taken)):
            return (options[int(rng.random() * len(options))],), None
        branches = self._branches(p, options)
        if len(branches) == 1:
            (branch,) = branches
        else:
            assert node is not None
            branch = self._select(node, list(branches), [_branch(one, branches) for one in taken], weight, rng)
        return branches[branch], node.children.get(branch) if node else None

    def _select(
        self, node: _Node, options: Sequence[int], taken: list[int], weight: Sequence[float], rng: random.Random
    ) -> int:
        """The option of the highest bound; ties and unvisited ones at random."""
        total = log(max(1, node.visits + len(taken)))
        bounds = []
        for option in options:
            child = node.children.get(option)
            visits = (child.visits if child else 0) + taken.count(option)
            mean = self._reward(child, weight) if child else 0.0
            bounds.append(mean + self._exploration * sqrt(2 * total / visits) if visits else inf)
        best = max(bounds)
        among = [option for option, bound in zip(options, bounds, strict=True) if bound == best]
        return among[int(rng.random() * len(among))]

    def _reward(self, node: _Node, weight: Sequence[float]) -> float:
        """Mean reward of the trials below a node, between 0 and 1."""
        share = 0.5 if self._trouble else 0.0
        total = 0.0
        if node.feasible:
            scaled = 0.0
            for w, value, best, worst in zip(weight, node.sums, self._best, self._worst, strict=True):
                scaled += w * (worst - value / node.feasible) / (worst - best) if worst > best else w * 0.5
            total = node.feasible * (share + (1 - share) * scaled)
        if node.violated:
            total += share * (node.violated - node.over / self._most)
        return total / node.visits


def _branch(option: int | None, branches: Mapping[int, Sequence[int]]) -> int:
    """Where an option is."""
    return next(branch for branch, options in branches.items() if option in options)
