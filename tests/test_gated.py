"""Evaluators that are asked only for archs whose earlier measurements are good enough: order, sentences, places."""

from __future__ import annotations

import pickle
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import pyglove as pg
import pytest

import nas
from nas.errors import EvaluationError, Infeasible, MetricError
from nas.evaluate import Evaluator, Gated, Once
from nas.evaluate.base import identity_of, subject
from nas.evaluate.gated import conditions
from nas.placement import Needs
from nas.space import Space
from tests.conformance.evaluator import EvaluatorConformance

Arch = Any


class Gives(Evaluator):
    """Says what it measures of any arch, and counts how often it is asked."""

    def __init__(self, **found: float) -> None:
        self.metrics = tuple(found)
        self.found, self.asked = found, 0

    def __call__(self, arch: Arch) -> Mapping[str, float]:
        self.asked += 1
        return self.found


class Times(Gives):
    """A name of its own for messages."""


def unsaid(arch: Arch) -> Mapping[str, float]:
    return {"params": 3.0}


def gated(where: Any = "accuracy >= 0.7") -> Gated:
    return Gated(Times(latency_ms=2.0), where)


class Wide(Evaluator):
    metrics = ("width",)

    def __call__(self, arch: Arch) -> Mapping[str, float]:
        return {"width": float(arch.choices["width"])}


class TestGated(EvaluatorConformance):
    @pytest.fixture
    def space(self) -> Space:
        return Space(pg.Dict(width=pg.oneof([1, 2, 3, 4])), name="widths")

    @pytest.fixture
    def evaluator(self) -> Any:
        return Gated(Wide(), "something_else <= 1")

    def test_it_composes(self, evaluator: Any, space: Space) -> None:
        """Behind what its condition is on."""
        evaluation = nas.Evaluation([lambda arch: {"something_else": 1.0}, evaluator])
        evaluation.check(space)
        assert evaluation(space.smallest) == {"something_else": 1.0, "width": 1.0}


def test_what_misses_a_condition_is_infeasible_with_what_was_measured() -> None:
    costly = gated("accuracy >= 0.7 and params <= 50_000")
    counts: Any = subject(costly.evaluator)
    size, missed = Gives(params=10.0), Gives(accuracy=0.6)
    with pytest.raises(Infeasible, match=r"accuracy is 0.6, not >= 0.7, so 'Times' is not asked$") as infeasible:
        nas.Evaluation([size, missed, costly])(None)  # type: ignore[arg-type]
    assert infeasible.value.measurements == {"params": 10.0, "accuracy": 0.6}
    assert counts.asked == 0
    met = nas.Evaluation([Gives(accuracy=0.7), size, costly])
    assert met(None) == {"accuracy": 0.7, "params": 10.0, "latency_ms": 2.0}  # type: ignore[arg-type]
    assert counts.asked == 1
    assert met.metrics == ("accuracy", "params", "latency_ms")


def test_nothing_more_is_asked_once_a_condition_is_missed() -> None:
    between = Gives(robustness=1.0)
    with pytest.raises(Infeasible):
        nas.Evaluation([Gives(accuracy=0.6), between, gated()])(None)  # type: ignore[arg-type]
    assert between.asked == 0


def test_all_who_are_not_asked_are_named() -> None:
    more = [gated(), Gated(Gives(energy_mj=1.0), ["accuracy >= 0.7"])]
    with pytest.raises(Infeasible, match="so 'Times' and 'Gives' are not asked"):
        nas.Evaluation([Gives(accuracy=0.6), *more])(None)  # type: ignore[arg-type]
    with pytest.raises(Infeasible, match="params is 3, not <= 2$"):  # nobody waits for that
        nas.Evaluation([unsaid, *more], ["params <= 2"])(None)  # type: ignore[arg-type]


def test_conditions_are_constraints_each_once() -> None:
    both = [Gives(accuracy=0.8, params=3.0), gated(["accuracy >= 0.7", "params <= 5"]), gated("params <= 5")]
    both[2].evaluator.metrics = ("energy_mj",)  # type: ignore[attr-defined]
    found = nas.Evaluation(both, ["params <= 5", "params <= 9"]).constraints
    assert [str(one) for one in found] == ["params <= 5", "params <= 9", "accuracy >= 0.7"]
    assert gated(nas.Constraint("accuracy", ">=", 0.7)).where == gated("  accuracy>=.7  and accuracy >= 0.70").where


def test_a_cheap_evaluator_is_gated_behind_expensive_ones() -> None:
    cheap = Gives(latency_ms=1.0)
    cheap.cost = "cheap"
    one = nas.Evaluation([Gives(accuracy=0.9), Gated(cheap, "accuracy >= 0.7")])
    assert [type(each).__name__ for each in one.evaluators] == ["Gives", "Gated"]
    assert {each.cost for each in one.evaluators} == {"dear"}


FAULTS: dict[str, tuple[Callable[[], Any], type[Exception], str]] = {
    "later": (
        lambda: nas.Evaluation([gated(), Gives(accuracy=0.9)]),
        EvaluationError,
        "'Times' is asked only where accuracy >= 0.7, and 'Gives', which gives that, comes after it; give 'Gives' first",
    ),
    "unknown": (
        lambda: nas.Evaluation([Gives(accuracy=0.9, params=1.0), gated("acuracy >= 0.7")]),
        EvaluationError,
        "none before it gives 'acuracy'; they give accuracy, params; did you mean 'accuracy'",
    ),
    "first": (lambda: nas.Evaluation([gated()]), EvaluationError, "none before it gives 'accuracy'; it is the first"),
    "own": (
        lambda: nas.Evaluation([Gives(accuracy=0.9), gated("latency_ms <= 1")]),
        EvaluationError,
        "it gives that itself; give a condition on what is measured before",
    ),
    "unsaid": (
        lambda: nas.Evaluation([unsaid, gated("parms <= 5")])(None),  # type: ignore[arg-type]
        EvaluationError,
        "'parms' was not measured before it; there is params; did you mean 'params'",
    ),
    "not a number": (
        lambda: nas.Evaluation([lambda arch: {"accuracy": float("nan")}, gated()])(None),  # type: ignore[arg-type]
        EvaluationError,
        "metric 'accuracy' of evaluator .* came back as",
    ),
    "twice": (
        lambda: nas.Evaluation([Gives(accuracy=0.9), gated(), gated()]),
        EvaluationError,
        "evaluators 'Times' and 'Times' both yield 'latency_ms'",
    ),
    "or": (
        lambda: gated("accuracy >= 0.7 or params <= 3"),
        MetricError,
        "'accuracy >= 0.7 or params <= 3' is not underst",
    ),
    "nan": (lambda: gated("accuracy >= nan"), MetricError, "is not understood; write 'NAME <= NUMBER'"),
    "nothing": (lambda: gated([]), EvaluationError, "Gated has no condition; give where="),
    "number": (lambda: gated(0.7), EvaluationError, "Gated was given where=0.7"),
    "no evaluator": (lambda: Gated(3, "a <= 1"), EvaluationError, "Gated was given evaluator=3"),  # type: ignore[arg-type]
}


@pytest.mark.parametrize("name", FAULTS)
def test_a_condition_that_cannot_be_judged_is_one_sentence(name: str) -> None:
    fault, kind, sentence = FAULTS[name]
    with pytest.raises(kind, match=sentence):
        fault()


def test_inside_others_it_is_as_well(tmp_path: Path) -> None:
    shared = Once(nas.Evaluation([Gives(accuracy=0.6), gated()]), str, tmp_path / "cache")
    outer = nas.Evaluation([shared])
    assert [str(one) for one in outer.constraints] == ["accuracy >= 0.7"]
    arch = Space(pg.Dict(width=pg.oneof([1, 2])), name="widths").smallest
    for _ in range(2):
        with pytest.raises(Infeasible, match="so 'Times' is not asked") as infeasible:
            outer(arch)
        assert infeasible.value.measurements["accuracy"] == 0.6
    inside = Once(gated(), str, tmp_path / "other")
    assert conditions([inside]) == list(gated().where)
    with pytest.raises(
        EvaluationError, match="evaluator 'Times' is asked only where accuracy >= 0.7.* it is the first"
    ):
        nas.Evaluation([inside])


def test_places_come_after_those_that_conditions_wait_for() -> None:
    bench = {"bench": 1.0}
    size, quality = Gives(params=1.0), nas.needs(Gives(accuracy=0.6), gpus=1)
    whole = nas.Evaluation([size, quality, gated()])
    parts = whole.stages()
    assert [needs for needs, _ in parts] == [None, Needs(gpus=1.0), None]
    assert [list(part.evaluators) for _, part in parts] == [[size], [quality], [whole.evaluators[2]]]
    assert parts[0][1](None) == {"params": 1.0}  # type: ignore[arg-type]
    with pytest.raises(Infeasible, match="accuracy is 0.6, not >= 0.7, so 'Times' is not asked"):
        pickle.loads(pickle.dumps(parts[1][1]))(None)
    assert parts[2][1](None) == {"latency_ms": 2.0}  # type: ignore[arg-type]
    same = nas.needs(Gives(energy_mj=1.0), resources=bench)
    there = nas.Evaluation([size, same, nas.needs(gated("params <= 3"), resources=bench)]).stages()
    assert [(needs is None, len(part.evaluators)) for needs, part in there] == [(True, 1), (False, 2)]
    maybe = nas.Evaluation([nas.needs(lambda arch: {"accuracy": 0.9}, gpus=1), gated()]).stages()
    assert [needs for needs, _ in maybe] == [Needs(gpus=1.0), None], "what does not say may give it"
    assert len(nas.Evaluation([Gives(accuracy=0.6), gated()]).stages()) == 1


def test_evaluator_and_conditions_tell_it_from_others() -> None:
    def timed(arch: Arch, scale: float = 1.0) -> Mapping[str, float]:
        return {"latency_ms": scale}

    ways = [Gated(timed, "a <= 1"), Gated(timed, "a <= 2"), Gated(lambda arch: timed(arch, 2.0), "a <= 1"), gated()]
    told = [identity_of(one) for one in ways]
    assert all(told[i] != told[j] for i in range(4) for j in range(i))
    assert identity_of(Gated(timed, ["a <= 1"])) == told[0]

    class Says(Gives):
        def describe(self) -> dict[str, Any]:
            return {"name": "Says"}

    said = Gated(Says(x=1.0), "a <= 1 and b < 2").describe()
    assert said == {"name": "Gated", "where": ["a <= 1", "b < 2"], "evaluator": {"name": "Says"}}


def test_what_a_study_asks_of_the_evaluator_is_passed_on() -> None:
    class Trains(Gives):
        fidelity = ("epochs", 9.0)

        def up_to(self, arch: Arch, far: float) -> Mapping[str, float]:
            return {"far": far}

        def progress(self, arch: Arch) -> list[Mapping[str, float]]:
            return [{"x": 1.0}]

        def known(self, arch: Arch) -> Mapping[str, float]:
            return {"x": 3.0}

    inner = Trains(x=1.0)
    inner.exclusive = True
    one = Gated(inner, "params <= 5")
    assert (one.has_levels, one.has_progress, one.remembers, one.has_epochs, one.exclusive) == (
        True,
        True,
        True,
        False,
        True,
    )
    assert (one.up_to(None, 3.0), one.progress(None), one.known(None)) == ({"far": 3.0}, [{"x": 1.0}], {"x": 3.0})  # type: ignore[arg-type]
    assert one.fidelity == ("epochs", 9.0)
    nas.needs(one, gpus=1)
    assert inner.needs == Needs(gpus=1.0)
