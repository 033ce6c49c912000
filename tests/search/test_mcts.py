"""Tree search: bounds against the formula, and the contract."""

from __future__ import annotations

import random
from math import log, sqrt

import pyglove as pg
import pytest

from nas.choosing.steps import Steps
from nas.errors import AlgorithmError
from nas.search import MCTS, Algorithm, Finished
from nas.search.mcts import Tree
from nas.space import Arch, Space
from tests.conformance.algorithm import ONE, LearnerConformance, completed, drive, flat, keys, small


class TestMCTS(LearnerConformance):
    rebuilt = 400  # the tree is grown by every trial again

    def make(self, seed: int = 0) -> Algorithm:
        return MCTS(seed=seed)


class TestBisectingMCTS(LearnerConformance):
    rebuilt = 400

    def make(self, seed: int = 0) -> Algorithm:
        return MCTS(bisect=True, seed=seed)


def first_gene(arch: Arch) -> tuple[float, ...]:
    """The first decision is all that matters: 0 is best."""
    return (float(arch.genome[0]),)


def tree_of(values: list[tuple[int, float]], exploration: float) -> Tree:
    """A tree that has seen archs with these first genes and values."""
    tree = Tree(Steps(small()), 1, exploration)
    for number, (gene, value) in enumerate(values):
        arch = small().from_genome([gene, number % 4, number // 4 % 4])
        tree.learn([gene, number % 4, number // 4 % 4], Finished(number, arch, (value,)))
    return tree


def test_the_first_choice_has_the_highest_bound_of_the_formula() -> None:
    seen = [(0, 4.0), (0, 2.0), (0, 3.0), (1, 1.0), (2, 5.0), (3, 2.5), (3, 3.5)]
    rewards = {gene: [(5.0 - value) / 4.0 for at, value in seen if at == gene] for gene in range(4)}
    for exploration in (0.0, 0.1, 0.5, 1.0, 3.0):
        bounds = {
            gene: sum(of) / len(of) + exploration * sqrt(2 * log(len(seen)) / len(of)) for gene, of in rewards.items()
        }
        assert tree_of(seen, exploration).walk([], random.Random(0))[0] == max(bounds, key=bounds.__getitem__)


def test_what_was_never_tried_comes_first_and_what_is_under_way_counts_as_tried() -> None:
    tree = tree_of([(0, 1.0), (1, 2.0)], 0.1)
    assert {tree.walk([], random.Random(seed))[0] for seed in range(20)} == {2, 3}
    assert {tree.walk([[2, 0, 0]], random.Random(seed))[0] for seed in range(20)} == {3}
    assert tree.walk([[2, 0, 0], [3, 0, 0]], random.Random(0))[0] in (0, 2, 3)


def test_each_trial_adds_one_node() -> None:
    def nodes(node: object) -> int:
        return 1 + sum(map(nodes, node.children.values()))  # type: ignore[attr-defined]

    for count in (0, 1, 5, 12):
        assert nodes(tree_of([(0, float(value)) for value in range(count)], 0.1)._root) == 1 + count


def test_the_good_branch_is_followed() -> None:
    algorithm = MCTS()
    algorithm.bind(flat(), ONE)
    asked = drive(algorithm, completed(first_gene), 200).asked
    assert sum(arch.genome[0] == 0 for arch in asked[50:]) > 120


def numbers() -> Space:
    """A number of several, one of a range, and what is no number."""
    return Space(
        pg.Dict(
            units=pg.oneof([64, 16, 32, 128, 256]), rate=pg.floatv(0.0, 1.0), kind=pg.oneof(["conv", "pool", "skip"])
        ),
        name="numbers",
    )


def test_halves_are_the_smaller_and_the_larger_numbers() -> None:
    steps = Steps(numbers(), bins=4)
    assert steps.branches(0, range(5)) == {0: [1, 2], 1: [0, 3, 4]}  # 16, 32; 64, 128, 256
    assert steps.branches(0, [3, 0, 4]) == {0: [0], 1: [3, 4]}
    assert steps.branches(0, [3]) == {3: (3,)}
    assert steps.branches(1, range(4)) == {0: [0, 1], 1: [2, 3]}
    assert steps.branches(2, range(3)) == {0: (0,), 1: (1,), 2: (2,)}


def test_a_bisection_tree_is_the_tree_of_halving_one_number_after_the_other() -> None:
    """Slow second implementation: the way of each choice as a word, and visits and values counted by prefix."""
    steps, draw = Steps(numbers(), bins=4), random.Random(0)
    tree, counted = Tree(steps, 1, 0.1, bisect=True), dict[str, list[float]]()
    for number in range(60):
        arch = numbers().sample(draw)
        chosen = steps.choices(arch)
        units, rate, kind = (place if place is not None else -1 for place in chosen)
        ranked = [1, 2, 0, 3, 4].index(units)  # 16, 32 | 64 | 128, 256
        word = ["00", "01", "10", "110", "111"][ranked] + f"{rate:02b}" + str(kind)
        value = float(number % 7)
        tree.learn(chosen, Finished(number, arch, (value,)))
        for end in range(len(word) + 1):
            new = word[:end] not in counted
            counted.setdefault(word[:end], []).append(value)
            if new and end:
                break

    def known(node: object, word: str) -> dict[str, list[float]]:
        found = {word: [node.visits, node.sums[0]]}  # type: ignore[attr-defined]
        for branch, child in node.children.items():  # type: ignore[attr-defined]
            found |= known(child, word + str(branch))
        return found

    assert known(tree._root, "") == {word: [len(values), sum(values)] for word, values in counted.items()}


def test_numbers_that_are_alike_share_what_is_known() -> None:
    """Of 64 numbers the best are among the largest: halves find them where branches of their own have not been tried."""
    space = Space(pg.List([pg.oneof(list(range(64))), pg.oneof(list(range(64)))]), name="wide")

    def mean(seed: int, *, bisect: bool) -> float:
        algorithm = MCTS(bisect=bisect, seed=seed)
        algorithm.bind(space, ONE)
        asked = drive(algorithm, completed(lambda arch: (-float(sum(arch.genome)),)), 60).asked
        return sum(sum(arch.genome) for arch in asked[40:]) / 20

    assert all(mean(seed, bisect=True) > mean(seed, bisect=False) + 10 for seed in range(6))


def test_many_at_once_spread_over_the_tree() -> None:
    algorithm = MCTS(exploration=1.0)
    algorithm.bind(flat(), ONE)
    drive(algorithm, completed(first_gene), 30)
    first = [arch.genome[0] for arch in algorithm.ask(60)]
    assert all(first.count(gene) >= 2 for gene in range(4))  # although 0 is best, and 1 second
    assert first.count(0) == max(first.count(gene) for gene in range(4))


def test_infeasible_trials_have_the_lower_half_of_the_rewards() -> None:
    tree = Tree(Steps(small()), 1, 0.0)
    outcomes = [
        Finished(0, small().from_genome([0, 0, 0]), None, 4.0, "INFEASIBLE"),
        Finished(1, small().from_genome([1, 0, 0]), None, 1.0, "INFEASIBLE"),
        Finished(2, small().from_genome([2, 0, 0]), (9.0,)),
        Finished(3, small().from_genome([3, 0, 0]), None, 0.0, "FAILED"),
    ]
    for trial in outcomes:
        tree.learn(list(trial.arch.genome), trial)
    rewards = [tree._reward(tree._root.children[gene], [1.0]) for gene in range(4)]
    assert rewards == [0.0, 0.375, 0.75, 0.0]
    tree.learn([2, 1, 0], Finished(4, small().from_genome([2, 1, 0]), (5.0,)))
    assert tree._reward(tree._root.children[2], [1.0]) == 0.75  # of the best and the worst, 1.0 and 0.5


def test_archs_that_are_known_are_replaced_by_one_beside_them() -> None:
    algorithm = MCTS(exploration=0.0)
    algorithm.bind(small(), ONE)
    run = drive(algorithm, completed(first_gene), 64)
    assert len(set(keys(run.asked))) == 64


@pytest.mark.parametrize(
    ("option", "sentence"),
    [
        ({"exploration": -1.0}, "mcts was given exploration=-1.0; it is a finite number, 0 or more"),
        ({"exploration": float("nan")}, "exploration=nan; it is a finite number"),
        ({"bins": 0}, "bins=0; it is a whole number, 1 or more"),
        ({"bisect": 1}, "bisect=1; it is True or False"),
    ],
)
def test_wrong_options_get_one_sentence(option: dict[str, float], sentence: str) -> None:
    with pytest.raises(AlgorithmError, match=sentence):
        MCTS(**option)  # type: ignore[arg-type]
