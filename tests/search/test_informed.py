"""What the surrogate makes of what a study knows without an evaluation: objectives, budgets, features."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence

import numpy as np
import pyglove as pg
import pytest

import nas
from nas import pareto
from nas.metrics import Metric
from nas.search import Finished, Surrogate
from nas.search.archive import Seen
from nas.search.beliefs import Models, Violations
from nas.search.encoding import Encoding
from nas.search.insight import Insight, Knowledge
from nas.search.warp import Warp
from tests.conformance.algorithm import (
    ONE,
    archs,
    drive,
    flat,
    trade_off,
)
from tests.conformance.patience import Clock


def test_an_objective_that_can_be_computed_is_not_guessed() -> None:
    """Half of the cost is noise that no model learns; a search that is told how to compute it finds the better front."""
    space = nas.Space(pg.List([pg.oneof(list("abcde")) for _ in range(6)]), name="six")
    tables = np.random.default_rng(3).random((2, 6, 5))
    hidden = np.random.default_rng(4).random(5**6)

    def cost(arch: nas.Arch) -> float:
        genes = [int(gene) for gene in arch.genome]
        return float(tables[1, range(6), genes].sum() + 2 * hidden[int("".join(map(str, genes)), 5)])

    def found(informed: bool, seed: int) -> float:
        algorithm = Surrogate(seed=seed)
        if informed:
            algorithm.inform(Insight(cheap={"cost": lambda arch: {"cost": cost(arch)}}))
        algorithm.bind(space, [Metric("error", "min"), Metric("cost", "min")])
        points = []
        for _ in range(12):
            trials = []
            for arch in algorithm.ask(4):
                points.append((float(tables[0, range(6), [int(gene) for gene in arch.genome]].sum()), cost(arch)))
                trials.append(Finished(len(points), arch, points[-1]))
            algorithm.tell(trials)
        return pareto.hypervolume(np.array(points), np.array([6.0, 8.0]))

    assert sum(found(True, seed) > found(False, seed) for seed in range(5)) >= 4


BUDGET = nas.Constraint("cost", "<=", 6.0)


def within_budget(
    cheap: Callable[[nas.Arch], dict[str, float]] | None, seed: int, asked: int = 40, stored: bool = False
) -> list[Finished]:
    """A search of 4^11 archs for the least error within a cost that one in 364 keeps to, and what it evaluated."""
    algorithm = Surrogate(seed=seed)
    algorithm.inform(Insight({} if cheap is None else {"cost": cheap}, stored=cost_of if stored else None))
    algorithm.bind(flat(), ONE, [BUDGET])

    def outcome(number: int, arch: nas.Arch) -> Finished:
        error, cost = trade_off(arch)
        over = BUDGET.violation(cost)
        if error < 1.0 or arch.genome[0] == 2:
            return Finished(number, arch, None, state="FAILED")
        return Finished(number, arch, None if over else (error,), over, "INFEASIBLE" if over else "COMPLETED")

    return drive(algorithm, outcome, asked, workers=3).finished


def cost_of(arch: nas.Arch) -> dict[str, float]:
    return {"cost": trade_off(arch)[1]}


def best_of(finished: Sequence[Finished]) -> float:
    return min((trial.values[0] for trial in finished if trial.values), default=99.0)


def test_a_budget_that_can_be_computed_is_kept_to() -> None:
    """Evaluations are not spent on what is known to be over the budget, and fewer of them find as much within it."""
    for seed in range(5):
        informed = within_budget(cost_of, seed)
        assert sum(trial.state == "INFEASIBLE" for trial in informed) <= 6
        assert best_of(informed[:25]) < best_of(within_budget(None, seed))


def test_failures_within_a_budget_are_learnt_from() -> None:
    """A quarter of the space fails, whatever it costs; that is not lost among all that is over the budget."""
    failed = [sum(trial.state == "FAILED" for trial in within_budget(cost_of, seed)[10:]) for seed in range(3)]
    assert max(failed) <= 3  # of 30; anywhere in the space it would be 7


def test_where_little_can_be_computed_the_model_proposes(monkeypatch: pytest.MonkeyPatch) -> None:
    """30 ms of the processor an arch: all that a wave has time for is often over the budget.

    What nobody looked at is then chosen by the model, and not by chance, which fails a quarter of the time.
    """
    clock = Clock(monkeypatch)

    def slow(arch: nas.Arch) -> dict[str, float]:
        clock.now += 0.03
        return cost_of(arch)

    late = [trial.state for seed in (1, 2) for trial in within_budget(slow, seed, 50)[6:]]
    assert late.count("FAILED") <= 8  # of 88
    assert late.count("COMPLETED") >= 20


def test_a_budget_that_cannot_be_computed_is_learnt() -> None:
    def broken(_arch: nas.Arch) -> dict[str, float]:
        raise ValueError("no")

    assert sum(trial.state == "COMPLETED" for trial in within_budget(broken, 0, 60)) >= 10  # by chance not one


def test_how_far_trials_keep_to_a_budget_is_learnt_from() -> None:
    """What trials measured is stored; that says more than that they were within the budget."""
    better = 0
    for seed in range(6):
        told = within_budget(None, seed, stored=True)
        better += best_of(told) <= best_of(within_budget(None, seed))
        assert sum(trial.state == "COMPLETED" for trial in told) >= 8
    assert better >= 5


def test_slack_is_that_to_the_nearest_constraint() -> None:
    constraints = [BUDGET, nas.Constraint("dear", "<=", 2.0)]
    one, other, third = archs(flat(), 3)
    stored = {one.key: {"cost": 3.0, "dear": 1.9}, other.key: {"cost": 3.0, "dear": 4.0}, third.key: {"cost": 5.0}}
    knowledge = Knowledge(Insight({"cost": cost_of}, stored=lambda arch: stored[arch.key]), ONE, constraints)
    assert np.isnan(knowledge.slack(one, dear=False))  # nobody looked yet
    knowledge.finished([one, other, third])
    assert knowledge.slack(one, dear=False) == knowledge.slack(one, dear=True) == pytest.approx(-0.05)
    assert knowledge.slack(other, dear=True) == 0.0
    assert np.isnan(knowledge.slack(third, dear=True))
    constraints[1] = nas.Constraint("dear", "<=", 100.0)
    knowledge = Knowledge(Insight({"cost": cost_of}, stored=lambda arch: stored[arch.key]), ONE, constraints)
    knowledge.finished([one])
    assert knowledge.slack(one, dear=False) == pytest.approx(-0.5)
    assert knowledge.slack(one, dear=True) == pytest.approx(-0.981)


def test_with_slack_the_bound_is_where_feasible_ends() -> None:
    for violations, inside, outside in (([-0.5, -0.1, 0.3, np.inf], -0.05, 0.05), ([0.0, 0.0, 0.3, 0.7], 0.1, 0.2)):
        over = Violations(np.array(violations))
        assert over.informative
        warp = Warp(np.minimum(violations, 1.0))
        assert warp(np.array([inside]))[0] < over.goal < warp(np.array([outside]))[0]


def test_excess_is_what_the_computed_constraints_are_violated_by() -> None:
    some = archs(flat(), 3)
    constraints = [BUDGET, nas.Constraint("dear", "<=", 1.0), nas.Constraint("cost", ">=", 100.0)]
    knowledge = Knowledge(Insight(cheap={"cost": cost_of}), ONE, constraints)
    assert knowledge.excess(some[0]) == 0.0  # nobody looked yet
    knowledge.look(some)
    for arch in some:
        cost = trade_off(arch)[1]
        assert knowledge.excess(arch) == pytest.approx(max(0.0, cost - 6.0) / 6.0 + (100.0 - cost) / 100.0)


def test_no_more_is_computed_than_what_says_that_a_budget_is_exceeded() -> None:
    asked: list[str] = []

    def slow(arch: nas.Arch) -> dict[str, float]:
        asked.append(arch.key)
        until = time.thread_time() + 0.002
        while time.thread_time() < until:
            pass
        return {"proxy": 1.0}

    over, other = flat().largest, flat().smallest
    knowledge = Knowledge(Insight(cheap={"proxy": slow, "cost": cost_of}), ONE, [BUDGET])
    knowledge.look([other, over])  # in this order, so that who is slow is known
    assert asked == [other.key]
    assert knowledge.excess(over) > 0
    assert knowledge.excess(other) == 0
    assert np.isnan(knowledge.features([over])[0]).tolist() == [True, False]
    knowledge.look([over], whole=True)
    assert asked == [other.key, over.key]
    assert knowledge.features([over]).tolist() == [[1.0, cost_of(over)["cost"]]]


def test_what_is_stored_of_an_infeasible_trial_is_enough() -> None:
    """Evaluators stop at a violated constraint, so the rest is not stored; it is not computed either."""
    over = flat().largest
    insight = Insight({"cost": cost_of, "proxy": lambda _: pytest.fail("computed")}, stored=cost_of)
    knowledge = Knowledge(insight, ONE, [BUDGET])
    knowledge.finished([over])
    assert knowledge.excess(over) == BUDGET.violation(cost_of(over)["cost"])


def test_an_evaluator_that_fails_leaves_the_objective_to_the_model() -> None:
    space = nas.Space(pg.List([pg.oneof(list("abcde")) for _ in range(6)]), name="six")

    def broken(_arch: nas.Arch) -> dict[str, float]:
        raise ValueError("no")

    told, untold = Surrogate(seed=0), Surrogate(seed=0)
    told.inform(Insight(cheap={"b": broken, "other": broken}))
    for algorithm in (told, untold):
        algorithm.bind(space, [Metric("a", "min"), Metric("b", "min")])
        algorithm.tell(
            [Finished(at, arch, (float(at % 5), float(-at % 7))) for at, arch in enumerate(archs(space, 20))]
        )
        assert len(algorithm.ask(4)) == 4


def six() -> nas.Space:
    return nas.Space(pg.List([pg.oneof(list("abcde")) for _ in range(6)]), name="six")


def test_a_feature_is_learnt_from() -> None:
    """Most of the error is noise to a model of the decisions; with a proxy of it, better archs are found."""
    space, hidden = six(), np.random.default_rng(4).normal(size=5**6)

    def noise(arch: nas.Arch) -> float:
        return float(hidden[int("".join(str(int(gene)) for gene in arch.genome), 5)])

    def late(informed: bool, seed: int) -> float:
        """Mean of the second half of 40 evaluations."""
        algorithm = Surrogate(seed=seed)
        if informed:
            algorithm.inform(Insight(cheap={"proxy": lambda arch: {"proxy": np.exp(noise(arch))}}))
        algorithm.bind(space, [Metric("error", "min")])
        found: list[float] = []
        for _ in range(10):
            asked = algorithm.ask(4)
            found += [sum(arch.genome) / 6 + noise(arch) for arch in asked]
            algorithm.tell([Finished(len(found) + at, arch, (found[at - 4],)) for at, arch in enumerate(asked)])
        return float(np.mean(found[20:]))

    gained = [late(False, seed) - late(True, seed) for seed in range(8)]  # a single seed may be lucky
    assert np.mean(gained) > 0.3


def test_what_is_known_to_gain_nothing_is_not_proposed() -> None:
    """Archs compute the same whose decisions are the same set: of 15,625 archs 210 are different."""
    space, known = six(), dict[tuple[int, ...], float]()

    def name(arch: nas.Arch) -> tuple[int, ...]:
        return tuple(sorted(int(gene) for gene in arch.genome))

    algorithm = Surrogate(seed=0)
    algorithm.inform(Insight(remembered=[lambda arch: {"error": known[name(arch)]} if name(arch) in known else {}]))
    algorithm.bind(space, [Metric("error", "min")])
    for asked in range(100):
        (arch,) = algorithm.ask(1)
        repeats = name(arch) in known
        assert not repeats or asked < 10  # the initial archs are not chosen by the model
        known[name(arch)] = float(sum(name(arch)) % 13)
        algorithm.tell([Finished(asked, arch, (known[name(arch)],))])


def test_trials_that_were_stopped_early_are_told_from_others() -> None:
    """Half of the trials were trained for one epoch of nine, and are the worse for it by far more than archs differ."""
    space, rng = six(), np.random.default_rng(0)
    some = archs(space, 80)
    epochs = {arch.key: 1.0 if at % 2 else 9.0 for at, arch in enumerate(some[:60])}
    truth = np.array([sum(arch.genome) for arch in some]) / 6
    values = (
        truth[:60, None] + np.array([[4.0 if at % 2 else 0.0] for at in range(60)]) + 0.05 * rng.normal(size=(60, 1))
    )
    insight = Insight(stored=lambda arch: {"epochs": epochs[arch.key]}, fidelity=("epochs", 9.0))
    knowledge = Knowledge(insight, ONE)
    seen = Seen(some[:60], values, np.zeros(60))
    knowledge.finished(seen.archs)
    assert knowledge.features(some[58:62]).tolist() == [[0.0], [np.log(1 / 9)], [0.0], [0.0]]

    def off(encoding: Encoding) -> float:
        view = Models(encoding, seen).condition(seen, values[:1]).view(some[60:])
        return float(np.abs(view._beliefs.warps[0].back(view._means[0]) - truth[60:]).mean())

    plain = Encoding(space)
    assert off(plain.described(knowledge.features, seen.archs)) < 0.25
    assert off(plain) > 1.0


def test_features_are_read_from_what_is_stored_before_they_are_computed() -> None:
    some, asked = archs(six(), 4), []

    def proxies(arch: nas.Arch) -> dict[str, float]:
        asked.append(arch.key)
        return {"a": 1.0, "b": float("nan")}

    stored = {some[0].key: {"a": 2.0, "b": 3.0, "error": 0.0}, some[1].key: {"a": 2.0}}
    insight = Insight({"a": proxies, "b": proxies}, stored=lambda arch: stored.get(arch.key, {}))
    knowledge = Knowledge(insight, ONE)
    knowledge.finished(some[:2])
    knowledge.look(some[2:3])
    knowledge.look(some[2:3])
    assert asked == [some[1].key, some[2].key]  # one call for both metrics, and only where something is missing
    np.testing.assert_array_equal(knowledge.features(some), [[2, 3], [1, np.nan], [1, np.nan], [np.nan, np.nan]])


def test_slow_features_are_computed_of_few_archs(monkeypatch: pytest.MonkeyPatch) -> None:
    """An evaluator of 10 ms of the processor: one look or two are the time that a wave has, after a second's worth at first."""
    clock = Clock(monkeypatch, step=0.02)
    asked = []

    def slow(arch: nas.Arch) -> dict[str, float]:
        asked.append(arch.key)
        clock.now += 0.01
        return {"proxy": float(sum(arch.genome))}

    algorithm = Surrogate(seed=0)
    algorithm.inform(Insight(cheap={"proxy": slow}))
    algorithm.bind(six(), ONE)
    counts = []
    for number in range(30):
        (arch,) = algorithm.ask(1)
        counts.append(len(asked))
        algorithm.tell([Finished(number, arch, (float(sum(arch.genome)),))])
    assert counts[0] == 0
    assert np.median(np.diff(counts)[10:]) <= 8
    assert counts[-1] > counts[15]  # but never none for long


def test_features_of_any_size_are_brought_to_one_scale() -> None:
    some, values = archs(six(), 40), np.random.default_rng(0).normal(size=(40, 2)) * [1e9, 1e-9]
    values[3] = [-1e30, np.nan]
    at = {arch.key: row for arch, row in zip(some, values, strict=True)}
    plain = Encoding(six())
    code = plain.described(lambda those: np.array([at[arch.key] for arch in those]), some)
    features = code(some).counts[:, plain.count_columns :]
    assert code.count_columns == plain.count_columns + 2
    assert features.shape == (40, 2)
    assert np.abs(features).max() <= 4 / np.sqrt(2)
    assert features[3, 1] == 0.0
    order = np.argsort(values[:, 0])
    assert (np.diff(features[order, 0]) >= 0).all()
    assert 0.3 < features[np.arange(40) != 3].std() < 1.0
