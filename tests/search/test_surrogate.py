"""The surrogate: its contract, its mathematics against slow second implementations, and what it finds."""

from __future__ import annotations

import random
import time
from collections.abc import Callable, Sequence

import numpy as np
import pyglove as pg
import pytest
from scipy.optimize import check_grad

import nas
from nas import pareto
from nas.errors import AlgorithmError
from nas.metrics import Metric
from nas.search import Algorithm, Finished, Surrogate
from nas.search.archive import Archive, Kept, Seen
from nas.search.beliefs import Models, Violations
from nas.search.breeding import genes_of
from nas.search.encoding import Encoding
from nas.search.gaussian import Prior, Process, _Likelihood, fit
from nas.search.insight import Insight, Knowledge
from nas.search.warp import Warp
from nas.search.waves import Wave
from tests.conformance.algorithm import (
    ONE,
    TWO,
    LearnerConformance,
    area,
    completed,
    drive,
    error_only,
    flat,
    trade_off,
)
from tests.conformance.patience import Clock


class TestSurrogate(LearnerConformance):
    share = 0.25
    rebuilt = 450  # the model learns from as many; 100,000 would make no more

    def make(self, seed: int = 0) -> Algorithm:
        return Surrogate(initial=8, candidates=32, seed=seed)

    def test_beats_random_search_on_a_front(self) -> None:
        """In 60 evaluations, of which random search is given 180: five of five seeds, of which chance gives one in 32."""

        def play(algorithm: Algorithm, trials: int) -> float:
            algorithm.bind(flat(), TWO, ())
            return area(drive(algorithm, completed(trade_off), trials, workers=3).finished, (27.0, 34.0))

        for seed in range(5):
            assert play(self.make(seed), 60) > play(nas.RandomSearch(seed=seed), 180)

    def test_beats_random_search_on_one_objective(self) -> None:
        def best(algorithm: Algorithm, trials: int) -> float:
            algorithm.bind(flat(), ONE, ())
            run = drive(algorithm, completed(error_only), trials)
            return min(trial.values[0] for trial in run.finished if trial.values)

        for seed in range(5):
            assert best(self.make(seed), 50) < best(nas.RandomSearch(seed=seed), 150)

    def test_finds_a_small_feasible_region(self) -> None:
        """One arch in 364 is feasible; of 80 evaluations many are."""

        def outcome(number: int, arch: nas.Arch) -> Finished:
            error, cost = trade_off(arch)
            over = max(0.0, cost - 6) / 6
            return Finished(number, arch, None if over else (error, cost), over, "INFEASIBLE" if over else "COMPLETED")

        for seed in range(3):
            algorithm = self.make(seed)
            algorithm.bind(flat(), TWO, ())
            run = drive(algorithm, outcome, 80, workers=3)
            assert sum(trial.state == "COMPLETED" for trial in run.finished) >= 10


def mixed() -> nas.Space:
    return nas.Space(
        pg.Dict(
            ops=[pg.oneof(["conv", "pool", "skip"]) for _ in range(4)],
            width=pg.oneof([16, 32, 64, 128]),
            rate=pg.floatv(0.01, 1.0, scale="log"),
            head=pg.oneof([pg.Dict(kind="deep", depth=pg.oneof([1, 2, 3])), "flat"]),
        ),
        name="mixed",
    )


def archs(space: nas.Space, n: int) -> list[nas.Arch]:
    rng = random.Random(0)
    return [space.sample(rng) for _ in range(n)]


# -- encoding -----------------------------------------------------------------------------------------------------------------


def test_distance_of_a_decision_is_at_most_one_and_orders_numbers() -> None:
    space = mixed()
    code = Encoding(space)
    base = {"ops[0]": "conv", "ops[1]": "conv", "ops[2]": "conv", "ops[3]": "conv", "rate": 0.1, "head": "flat"}
    widths = code([space.arch({**base, "width": width}) for width in (16, 32, 128)]).coordinates
    apart = ((widths[:, None] - widths[None]) ** 2).sum(2)
    np.testing.assert_allclose(apart, [[0, 1 / 3, 1], [1 / 3, 0, 2 / 3], [1, 2 / 3, 0]], atol=1e-12)
    other = code([space.arch({**base, "width": 16}), space.arch({**base, "width": 16, "ops[0]": "skip"})]).coordinates
    assert ((other[0] - other[1]) ** 2).sum() == pytest.approx(1.0)
    assert code.blocks.max() + 1 == code.decisions == len(space.decisions)


def test_counts_say_how_often_and_not_where() -> None:
    space = mixed()
    code = Encoding(space)
    base = {"width": 16, "rate": 0.1, "head": "flat", "ops[2]": "conv", "ops[3]": "pool"}
    left, right = code(
        [
            space.arch({**base, "ops[0]": "conv", "ops[1]": "skip"}),
            space.arch({**base, "ops[0]": "skip", "ops[1]": "conv"}),
        ]
    ).counts
    assert code.count_columns == 3
    np.testing.assert_array_equal(left, right)
    np.testing.assert_allclose(left * 2 + 4 / 3, [2, 1, 1])


def test_pairs_say_what_neighbouring_decisions_are_together_and_nothing_of_either_alone() -> None:
    space = nas.Space(pg.List([pg.oneof([1, 2, 4]), pg.oneof(["a", "b"]), pg.oneof(list("wxyz"))]), name="three")
    code, some = Encoding(space), list(space.enumerate())
    pairs = code(some).pairs
    assert pairs.shape == (24, code.pair_columns) == (24, 2 * 1 + 1 * 3)
    genes = np.array([arch.genome for arch in some])
    same = genes[:, None] == genes[None]
    alike = np.where(same, 1.0, -1.0 / (np.array([3, 2, 4]) - 1.0))
    np.testing.assert_allclose(pairs @ pairs.T, (alike[..., :-1] * alike[..., 1:]).mean(2), atol=1e-12)
    for at in range(3):
        means = [pairs[genes[:, at] == gene].mean(0) for gene in set(genes[:, at])]
        np.testing.assert_allclose(means, 0.0, atol=1e-12)


def test_decisions_without_a_choice_and_inactive_ones_are_in_no_pair() -> None:
    space = nas.Space(
        pg.List([pg.oneof([1, 2]), pg.floatv(0.0, 1.0), pg.oneof([pg.oneof(["a", "b"]), "none"])]), name="nested"
    )
    code, some = Encoding(space), archs(space, 20)
    pairs = code(some).pairs
    assert code.pair_columns == 2
    inactive = np.array([arch.genome[3] is None for arch in some])
    assert (pairs[inactive] == 0.0).any(1).all()
    assert (pairs[~inactive] != 0.0).all()


def test_a_space_of_very_many_pairs_has_none() -> None:
    space = nas.Space(pg.List([pg.oneof(list(range(60))) for _ in range(2)]), name="long")
    code, some = Encoding(space), archs(space, 12)
    assert code.pair_columns == 0
    process = Process(code, Prior.of(code).mean, code(some))
    points = code(some)
    np.testing.assert_allclose(np.diag(process.covariance(points, points)), process.variance(points))


# -- process ------------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("far", [60.0, 800.0])
def test_a_line_search_may_step_as_far_as_it_likes(far: float) -> None:
    """L-BFGS-B once tried 10^300 near a saddle point: exp of that is infinite, and a study ended with a traceback."""
    space = mixed()
    some = archs(space, 12)
    encoding = Encoding(space)
    prior = Prior.of(encoding)
    likelihood = _Likelihood(encoding, prior, encoding(some), np.linspace(-1.0, 1.0, 12))
    here, _ = likelihood(prior.mean)
    for sign in (1.0, -1.0):
        loss, gradient = likelihood(prior.mean + sign * far)
        assert loss > here
        assert not gradient.any()


def test_gradient_of_the_likelihood_is_that_of_differences() -> None:
    space = mixed()
    code = Encoding(space)
    prior = Prior.of(code)
    targets = np.random.default_rng(0).normal(size=12)
    likelihood = _Likelihood(code, prior, code(archs(space, 12)), targets)
    at = prior.mean + np.random.default_rng(1).normal(size=len(prior.mean)) * 0.3
    error = check_grad(lambda p: likelihood(p)[0], lambda p: likelihood(p)[1], at)
    assert error < 1e-4 * np.linalg.norm(likelihood(at)[1])


def test_beliefs_are_those_of_the_textbook() -> None:
    space = mixed()
    code = Encoding(space)
    seen, new = code(archs(space, 20)), code(archs(space, 30)[20:])
    targets = np.random.default_rng(0).normal(size=20)
    process = Process(code, Prior.of(code).mean, seen)
    view = process.at(new)
    full = process.covariance(seen, seen) + process.noise * np.eye(20)
    cross = process.covariance(new, seen)
    np.testing.assert_allclose(view.mean(targets), cross @ np.linalg.solve(full, targets), atol=1e-8)
    variance = process.variance(new) - np.einsum("ij,ji->i", cross, np.linalg.solve(full, cross.T))
    np.testing.assert_allclose(view.variances, variance, atol=1e-8)
    np.testing.assert_allclose(np.diag(process.covariance(new, new)), process.variance(new))


def test_asking_two_leaves_the_variance_of_having_seen_them() -> None:
    space = mixed()
    code = Encoding(space)
    all_ = archs(space, 30)
    parameters = Prior.of(code).mean
    view = Process(code, parameters, code(all_[:20])).at(code(all_[20:]))
    view.ask(code([all_[23]]))
    view.ask_candidate(7)
    view.ask(code([all_[25], all_[21]]))
    view.ask_candidate(2)
    asked = [all_[at] for at in (23, 27, 25, 21, 22)]
    later = Process(code, parameters, code([*all_[:20], *asked])).at(code(all_[20:]))
    np.testing.assert_allclose(view.variances, later.variances, atol=1e-8)


def test_screened_gains_are_the_gains_about() -> None:
    """In single precision and with half of the intervals, in any units."""
    nested = nas.Space(pg.List([pg.oneof([0, 1, 2, pg.Dict(k=pg.oneof([3, 4]))]) for _ in range(8)]), name="nested")
    for space in (flat(), nested):
        rng = random.Random(4)
        archs = [space.sample(rng) for _ in range(150)]
        genes = genes_of(archs, len(space.decisions))
        error = np.nan_to_num(genes) @ np.arange(1, len(space.decisions) + 1)
        values = np.stack([error * 1e-9, 1e12 * np.cos(np.nan_to_num(genes)).sum(1), -np.sqrt(error)], 1)
        seen = Seen(archs[:50], values[:50], np.zeros(50))
        front = values[:50][pareto.ranks(values[:50]) == 0]
        beliefs = Models(Encoding(space), seen).condition(seen, front)
        exact, rough = beliefs.view(archs).gains(), beliefs.screened(genes)
        np.testing.assert_allclose(rough, exact, atol=0.05 * exact.max())
        assert np.corrcoef(rough, exact)[0, 1] > 0.99


def test_overconfidence_is_found_by_leaving_each_point_out() -> None:
    space = mixed()
    code = Encoding(space)
    points, targets = code(archs(space, 15)), np.random.default_rng(0).normal(size=15) * 3
    process = Process(code, Prior.of(code).mean, points)
    off = []
    for left_out in range(15):
        others = [at for at in range(15) if at != left_out]
        view = Process(code, Prior.of(code).mean, points.rows(others)).at(points.rows([left_out]))
        spread = np.sqrt(view.variances[0] + process.noise)
        off.append(abs(targets[left_out] - view.mean(targets[others])[0]) / spread)
    assert process.overconfidence(targets) == pytest.approx(np.clip(np.quantile(off, 0.68), 1, 2), rel=1e-6)
    assert process.overconfidence(targets / 100) == 1.0


def test_fit_finds_the_decisions_that_interact() -> None:
    space = nas.Space(pg.List([pg.oneof(["a", "b", "c"]) for _ in range(5)]), name="five")
    code = Encoding(space)
    some = archs(space, 120)
    targets = np.array([1.0 if arch.choices["[3]"] == arch.choices["[1]"] else -1.0 for arch in some])
    theta = fit(code, Prior.of(code), code(some), targets)[: code.decisions]
    assert set(np.argsort(-theta)[:2]) == {1, 3}


def test_fit_learns_what_neighbours_add_together(monkeypatch: pytest.MonkeyPatch) -> None:
    space = nas.Space(pg.List([pg.oneof(list("abcd")) for _ in range(12)]), name="twelve")
    table = np.random.default_rng(0).normal(size=(11, 4, 4))
    some = archs(space, 300)
    genes = np.array([arch.genome for arch in some])
    targets = table[np.arange(11), genes[:, :-1], genes[:, 1:]].sum(1)
    targets = (targets - targets.mean()) / targets.std()

    def off() -> float:
        code = Encoding(space)
        seen = code(some[:150])
        process = Process(code, fit(code, Prior.of(code), seen, targets[:150]), seen)
        return float(((process.at(code(some[150:])).mean(targets[:150]) - targets[150:]) ** 2).mean())

    known = off()
    monkeypatch.setattr("nas.search.encoding.PAIRED", 0)
    assert known < 0.7 * off()


def test_warp_keeps_order_and_comes_back() -> None:
    values = np.array([-5.0, -1.0, 0.0, 0.5, 2.0, 400.0])
    warp = Warp(values)
    assert (np.diff(warp(values)) > 0).all()
    np.testing.assert_allclose(warp.back(warp(values)), values, rtol=1e-9, atol=1e-9)
    assert np.ptp(warp(values)) < 5
    assert np.isfinite(Warp(np.full(3, 2.0))(np.full(3, 2.0))).all()


# -- archive ------------------------------------------------------------------------------------------------------------------


def test_archive_is_bounded_and_keeps_the_whole_front() -> None:
    space = nas.Space(pg.List([pg.oneof(list(range(8))) for _ in range(6)]), name="six")
    archive, rng, points = Archive(2, 40), np.random.default_rng(0), []
    for number, arch in enumerate(archs(space, 500)):
        point = tuple(rng.random(2))
        points.append(point)
        archive.add(Kept.of(Finished(number, arch, point)))
    truth = np.array(points)[pareto.non_dominated(np.array(points))]
    np.testing.assert_allclose(sorted(map(tuple, archive.front)), sorted(map(tuple, truth)))
    assert len(archive.front_archs) == len(truth)
    assert archive.told == 500
    assert len(archive.seen(10_000).archs) < 60


def test_archive_keeps_trials_by_what_was_told_and_not_by_how_many_at_once() -> None:
    space = nas.Space(pg.List([pg.oneof(list(range(8))) for _ in range(6)]), name="six")
    some = [Finished(at, arch, (float(at % 17), float(-at % 23))) for at, arch in enumerate(archs(space, 90))]
    left, right = Surrogate(initial=8), Surrogate(initial=8)
    for algorithm in (left, right):
        algorithm.bind(space, [Metric("a", "min"), Metric("b", "min")])
    left.tell(some)
    for trial in some:
        right.tell([trial])
    assert left.ask(6) == right.ask(6)


# -- search -------------------------------------------------------------------------------------------------------------------


def test_finds_an_additive_front_in_a_fifth_of_what_random_search_needs() -> None:
    space = nas.Space(pg.List([pg.oneof(list(range(5))) for _ in range(6)]), name="additive")
    cost = np.random.default_rng(0).random((2, 6, 5))

    def measure(arch: nas.Arch) -> tuple[float, float]:
        genes = [int(gene) for gene in arch.genome]
        one, two = cost[:, range(6), genes].sum(1)
        return float(one), float(two)

    everything = np.array([measure(arch) for arch in space.enumerate()])
    front = everything[pareto.non_dominated(everything)]
    reference = front.max(0) + 0.1 * np.ptp(front, 0)
    goal = 0.95 * pareto.hypervolume(front, reference)

    def needed(algorithm: Algorithm) -> int:
        algorithm.bind(space, [Metric("a", "min"), Metric("b", "min")])
        found: list[tuple[float, float]] = []
        while pareto.hypervolume(np.array(found or [(9.0, 9.0)]), reference) < goal:
            for arch in algorithm.ask(4):
                found.append(measure(arch))
                algorithm.tell([Finished(len(found), arch, found[-1])])
        return len(found)

    assert needed(Surrogate(seed=0)) * 5 <= needed(nas.RandomSearch(seed=0))


def test_learns_where_trials_are_infeasible() -> None:
    space = nas.Space(pg.List([pg.oneof(["ok", "bad", "fine"]) for _ in range(6)]), name="halves")
    some = archs(space, 120)
    bad = np.array([arch.choices["[2]"] == "bad" for arch in some])
    values = np.array([[float(index % 7)] for index in range(120)])
    values[bad] = np.nan
    seen = Seen(some[:60], values[:60], np.where(bad, 1.0, 0.0)[:60])
    beliefs = Models(Encoding(space), seen).condition(seen, np.array([[0.0]]))
    chance = beliefs.view(some[60:]).feasible
    assert chance[bad[60:]].max() < 0.2
    assert chance[~bad[60:]].min() > 0.8


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


def test_where_little_can_be_computed_the_model_proposes() -> None:
    """30 ms of the processor an arch: all that a wave has time for is often over the budget.

    What nobody looked at is then chosen by the model, and not by chance, which fails a quarter of the time.
    """

    def slow(arch: nas.Arch) -> dict[str, float]:
        until = time.thread_time() + 0.03
        while time.thread_time() < until:
            pass
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


def test_mutants_are_few_while_the_front_moves() -> None:
    space = nas.Space(pg.List([pg.oneof([0, 1, 2, 3]) for _ in range(8)]), name="eight")

    def mutants(values: Callable[[int], tuple[float, float]]) -> int:
        """Of 200 proposals after 300 trials."""
        algorithm = Surrogate(seed=0)
        algorithm.bind(space, TWO)
        algorithm.tell([Finished(at, arch, values(at)) for at, arch in enumerate(archs(space, 300))])
        taken: list[bool] = []
        proposed = Wave.next
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(Wave, "next", lambda wave, mutant, n: [taken.append(mutant), proposed(wave, mutant, n)][1])
            for _ in range(200):
                algorithm.ask(1)
        return sum(taken[:200])

    still, moving = mutants(lambda at: (float(at), float(at))), mutants(lambda at: (float(at), float(-at)))
    assert 45 < still < 90  # a third
    assert moving < 10


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
    Clock(monkeypatch, step=0.02)
    asked = []

    def slow(arch: nas.Arch) -> dict[str, float]:
        asked.append(arch.key)
        until = time.thread_time() + 0.01
        while time.thread_time() < until:
            pass
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


@pytest.mark.parametrize(("option", "value"), [("initial", 1), ("candidates", 3.5), ("seed", "x")])
def test_a_wrong_option_is_refused(option: str, value: object) -> None:
    with pytest.raises(AlgorithmError, match=f"{option}={value!r}"):
        Surrogate(**{option: value})  # type: ignore[arg-type]
