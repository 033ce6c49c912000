"""Model-based proposals, and the contract."""

from __future__ import annotations

import pytest

from nas.errors import AlgorithmError
from nas.search import SMBO, Algorithm, Exhausted
from tests.conformance.algorithm import (
    ONE,
    TWO,
    LearnerConformance,
    completed,
    drive,
    error_only,
    flat,
    keys,
    trade_off,
)

QUICK = {"samples": 30, "history": 60}


class TestSMBO(LearnerConformance):
    def make(self, seed: int = 0) -> Algorithm:
        return SMBO(**QUICK, seed=seed)


class TestTreeSMBO(LearnerConformance):
    def make(self, seed: int = 0) -> Algorithm:
        return SMBO(samples=80, history=60, interval=25, tree=True, seed=seed)


class TestBisectingSMBO(LearnerConformance):
    def make(self, seed: int = 0) -> Algorithm:
        return SMBO(samples=80, history=60, interval=25, tree=True, bisect=True, seed=seed)


def test_without_exploration_the_proposal_is_the_best_of_all_that_are_unknown() -> None:
    # The error is additive, the model has seen 40 archs of the 64, and 3,000 samples are all 64.
    algorithm = SMBO(samples=3000, exploration=0.0, penalty=1e-6, interval=40)
    algorithm.bind(flat(3), ONE)
    run = drive(algorithm, completed(error_only), 40)
    known = set(keys(run.asked))
    left = {arch.key: error_only(arch)[0] for arch in flat(3).enumerate() if arch.key not in known}
    assert left[algorithm.ask(1)[0].key] == min(left.values())


@pytest.mark.parametrize("tree", [False, True])
def test_weights_lead_proposals_to_both_ends_of_the_front(tree: bool) -> None:
    algorithm = SMBO(interval=20, tree=tree)
    algorithm.bind(flat(), TWO)
    asked = drive(algorithm, completed(trade_off), 220).asked[100:]
    costs = [trade_off(arch)[1] for arch in asked]
    assert min(costs) <= 8
    assert max(costs) >= 25


def test_the_model_is_that_of_the_last_whole_interval() -> None:
    algorithm = SMBO(**QUICK, interval=10)
    algorithm.bind(flat(), ONE)
    archs = algorithm.ask(25)
    told = [completed(error_only)(number, arch) for number, arch in enumerate(archs)]
    for end, fitted in ((9, 0), (12, 10), (25, 20)):
        algorithm.tell(told[:end])
        algorithm.ask(1)
        assert algorithm._fitted == fitted


def test_a_larger_bound_makes_samples_less_alike() -> None:
    def alike(bound: float) -> int:
        algorithm = SMBO(samples=100, interval=20, tree=True, bound=bound)
        algorithm.bind(flat(), ONE)
        drive(algorithm, completed(error_only), 20)
        algorithm.ask(1)
        assert algorithm._model is not None
        return len({arch.genome[:4] for arch in algorithm._model.samples})

    assert alike(0.1) < 0.8 * alike(1.0)


def test_a_tree_search_that_knows_everything_is_exhausted() -> None:
    algorithm = SMBO(samples=4, interval=2, tree=True)
    algorithm.bind(flat(2), ONE)
    drive(algorithm, completed(error_only), 16)
    with pytest.raises(Exhausted):
        algorithm.ask(1)


@pytest.mark.parametrize(
    ("option", "sentence"),
    [
        ({"samples": 0}, "smbo was given samples=0; it is a whole number, 1 or more"),
        ({"exploration": 2}, "exploration=2; it is a number"),
        ({"interval": 0}, "interval=0; it is a whole number"),
        ({"tree": 1}, "tree=1; it is True or False"),
        ({"bisect": True}, "smbo was given bisect=, which is about the tree; give tree=True too"),
        ({"bound": 1.0}, "smbo was given bound=, which is about the tree; give tree=True too"),
        ({"bound": -1.0, "tree": True}, "bound=-1.0; it is a finite number, 0 or more"),
        ({"penalty": 0}, "penalty=0; it is a finite number above 0"),
        ({"history": 1}, "history=1; it is a whole number, 2 or more"),
    ],
)
def test_wrong_options_get_one_sentence(option: dict[str, float], sentence: str) -> None:
    with pytest.raises(AlgorithmError, match=sentence):
        SMBO(**option)  # type: ignore[arg-type]
