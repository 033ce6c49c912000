"""Archs as points, and Gaussian processes over them: mathematics against slow second implementations."""

from __future__ import annotations

import random

import numpy as np
import pyglove as pg
import pytest
from scipy.optimize import check_grad

import nas
from nas import pareto
from nas.search.archive import Seen
from nas.search.beliefs import Models
from nas.search.breeding import genes_of
from nas.search.encoding import Encoding
from nas.search.gaussian import Prior, Process, _Likelihood, fit
from nas.search.warp import Warp
from tests.conformance.algorithm import (
    archs,
    flat,
)


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
