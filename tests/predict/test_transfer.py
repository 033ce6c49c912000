from __future__ import annotations

import random

import numpy as np
import pyglove as pg
import pytest
from scipy.stats import multivariate_normal

import nas
from nas.errors import PredictorError
from nas.predict import FewShot, Known, Predictor, choose, scores
from nas.predict.predictor import Floats
from nas.predict.scoring import spearman
from nas.predict.transfer import Strengths, weighed
from nas.space import Arch
from tests.conformance.predictor import PredictorConformance, archs, other, space, truth


def device(arch: Arch, layers: float, macs: float) -> float:
    """Devices that weigh layers and operations differently."""
    choices = arch.choices
    work = 8 * choices["width"] + (choices["layers"] - 1) * choices["width"] ** 2 + choices["width"] * choices["last"]
    return 0.2 + layers * (choices["layers"] + 1) + macs * work


def known(count: int = 5) -> list[Known]:
    rng = np.random.default_rng(0)
    found = []
    for number in range(count):
        some, (a, b) = archs(100, number), rng.random(2)
        ms = np.array([device(arch, 0.1 * a, 0.002 * b) for arch in some])
        found.append(Known(f"known-{number}", some, ms * 10.0**number))
    return found


class TestFewShot(PredictorConformance):
    shots = 10
    good = 0.15

    def make(self) -> Predictor:
        return FewShot(space(), "phone", known())


def test_known_devices_make_ten_measurements_enough() -> None:
    unseen = archs(100, 7)
    ms = np.array([truth(arch) for arch in unseen])
    errors = []
    for others in ([], known()):
        few = FewShot(space(), "phone", others)
        shots = few.choose(10)
        errors.append(scores(ms, few.fit(shots, [truth(arch) for arch in shots]).predict(unseen)[0])["mape"])
    assert errors[1] < 0.5 * errors[0]
    assert errors[1] < 0.08


def test_chosen_archs_are_better_than_the_first_ones() -> None:
    few = FewShot(space(), "phone", known(), strengths=Strengths())
    unseen = archs(100, 7)
    chosen, first = few.choose(5), archs(5, 11)
    assert len(set(chosen)) == 5
    spreads = []
    for shots in (chosen, first):
        one = FewShot(space(), "phone", known(), strengths=Strengths())
        one.fit(shots, [truth(arch) for arch in shots])
        spreads.append(float(((one.predict(unseen)[1] / np.mean([truth(arch) for arch in shots])) ** 2).mean()))
    assert spreads[0] < spreads[1]
    assert choose(space(), 3, known()) == choose(space(), 3, known())  # nothing random but the seed


def test_leaving_devices_out_says_how_well_each_follows_from_the_others() -> None:
    few = FewShot(space(), "phone", known())
    assert set(few.left_out) == {f"known-{number}" for number in range(5)}
    assert min(few.left_out.values()) > 0.8


def test_measurements_that_contradict_each_other_are_refused() -> None:
    few = FewShot(space(), "phone", known())
    shots = few.choose(10)
    ms = [truth(arch) for arch in shots]
    rng = np.random.default_rng(3)
    refused = 0
    for _ in range(8):
        try:
            few.fit(shots, rng.permutation(ms))
        except PredictorError as error:
            refused += "the 10 measurements of device 'phone' contradict each other" in str(error)
    assert refused >= 5
    few.fit(shots, ms)


def test_one_arch_with_two_latencies_is_refused() -> None:
    some = archs(4, 1)
    with pytest.raises(PredictorError, match=r"contradict each other: Arch\(.*\) took 1 ms and 2 ms"):
        FewShot(space(), "phone").fit([*some, some[0]], [1.0, 1.1, 1.2, 1.3, 2.0])
    times = [truth(arch) for arch in some]
    FewShot(space(), "phone", known()).fit([*some, some[0]], [*times, 1.05 * times[0]])


@pytest.mark.parametrize(
    ("others", "message"),
    [
        ([Known("tiny", archs(3, 1), np.ones(3))], "device 'tiny' has 3 archs and 3 latencies; .* needs 20 or more"),
        ([Known("odd", [other().smallest] * 20, np.ones(20))], "asked about an arch of space 'other'"),
    ],
)
def test_a_known_device_must_be_usable(others: list[Known], message: str) -> None:
    with pytest.raises(PredictorError, match=message):
        FewShot(space(), "phone", others)


def test_features_of_ones_own_work_but_cannot_be_kept() -> None:
    few = FewShot(space(), "phone", known(), features=lambda some: space().features(some, "ordinal"))
    shots = few.choose(10)
    few.fit(shots, [truth(arch) for arch in shots])
    with pytest.raises(PredictorError, match="features of your own cannot be kept"):
        few.pack()


def test_a_pool_must_be_large_enough() -> None:
    with pytest.raises(PredictorError, match="5 archs cannot be chosen among 2; give a larger pool"):
        FewShot(space()).choose(5, archs(2, 1))


def test_a_device_that_is_like_a_known_one_is_found_to_be() -> None:
    """Against densities of the ten measurements, and what each member of the mixture says by itself."""
    rng = np.random.default_rng(3)
    design, noise = rng.normal(size=(10, 6)), 0.1
    profiles = slice(1, 4)
    truth_ = design @ np.array([0.2, 0.0, 1.5, 0.0, 0.1, 0.0])
    y = truth_ + noise * rng.normal(size=10)
    scales = [np.ones(6)] + [np.where(np.isin(np.arange(6), [0, one, 4, 5]), 1.0, 0.0) for one in (1, 2, 3)]
    for scale, one in zip(scales[1:], (1, 2, 3), strict=True):
        scale[one] = np.sqrt(3.0)
    densities, means, covariances = [], [], []
    for scale in scales:
        prior = np.diag(scale**2)
        seen = design @ prior @ design.T + noise**2 * np.eye(10)
        densities.append(multivariate_normal(np.zeros(10), seen).pdf(y))
        gain = prior @ design.T @ np.linalg.inv(seen)
        means.append(gain @ y)
        covariances.append(prior - gain @ design @ prior)
    shares = np.array(densities) / sum(densities)
    found = weighed(design, profiles, y, noise)
    np.testing.assert_allclose(found.shares, shares, rtol=1e-6)
    mean = shares @ np.array(means)
    np.testing.assert_allclose(found.weights, mean, atol=1e-9)
    spread = sum(
        share * (covariance + np.outer(one - mean, one - mean))
        for share, covariance, one in zip(shares, covariances, means, strict=True)
    )
    np.testing.assert_allclose(found.covariance, spread, atol=1e-9)
    assert found.shares.argmax() == 2


def test_without_profiles_there_is_nothing_to_weigh() -> None:
    rng = np.random.default_rng(3)
    found = weighed(rng.normal(size=(8, 3)), slice(1, 1), rng.normal(size=8), 0.1)
    np.testing.assert_array_equal(found.shares, [1.0])


def test_a_device_agrees_most_with_its_family() -> None:
    """Nine known devices of three families, a new one of the second."""
    flat = nas.Space(pg.Dict({f"d{at}": pg.oneof([1, 2, 3, 4]) for at in range(12)}), name="families")
    for seed in range(4):
        rng, draw = np.random.default_rng(seed), random.Random(seed)
        some, queries = [flat.sample(draw) for _ in range(200)], [flat.sample(draw) for _ in range(300)]
        families, own = rng.gamma(2.0, 1.0, (3, 12, 4)), rng.gamma(2.0, 1.0, (10, 12, 4))

        def latency(number: int, archs: list[Arch], tables: Floats) -> Floats:
            genes = np.array([arch.genome for arch in archs])
            return np.asarray(10.0 + tables[number][np.arange(12), genes].sum(1))

        tables = 0.9 * families[np.array([*(at % 3 for at in range(9)), 1])] + 0.1 * own
        few = FewShot(
            flat,
            "new",
            [Known(f"known-{at}", some, latency(at, some, tables)) for at in range(9)],
            strengths=Strengths(profiles=1.0),
        )
        shots = few.choose(10)
        ms = latency(9, shots, tables) * rng.uniform(0.99, 1.01, 10)
        few.fit(shots, ms)
        assert spearman(few.predict(queries)[0], latency(9, queries, tables)) > 0.95
        assert few.agreement[1 + np.array([1, 4, 7])].sum() > 0.5
