"""What evaluators need of a cluster, and the parts that an evaluation falls into."""

from __future__ import annotations

from typing import Any

import pytest

import nas
from nas.errors import EvaluationError, Infeasible
from nas.evaluate.base import adapted, subject
from nas.placement import Needs


def quality(arch: Any) -> dict[str, float]:
    return {"quality": arch}


class Speed:
    def __call__(self, arch: Any) -> dict[str, float]:
        return {"speed": 2.0 * arch}


class Size:
    cost = "cheap"
    metrics = ("size",)

    def __call__(self, arch: Any) -> dict[str, float]:
        return {"size": 3.0 * arch}


def test_an_evaluator_says_what_it_needs_and_stays_itself() -> None:
    speed = Speed()
    assert adapted(speed).needs is None
    assert nas.needs(speed, gpus=0.5, resources={"bench": 1}, whole_node=True, workers=1) is speed
    said = adapted(speed).needs
    assert said is not None
    assert said == Needs(1.0, 0.5, (("bench", 1),), True, 1)
    assert said.reserved == {"CPU": 1.0, "GPU": 0.5, "bench": 1}


def test_an_evaluation_falls_into_one_part_for_each_place() -> None:
    speed, other = nas.needs(Speed(), gpus=1), Size()
    whole = nas.Evaluation([speed, quality, other], constraints=["size <= 6", "speed <= 3"])
    parts = whole.stages()
    assert [needs for needs, _ in parts] == [None, Needs(gpus=1.0)]
    assert [list(map(subject, part.evaluators)) for _, part in parts] == [[other, quality], [speed]]
    assert parts[0][1](1) | parts[1][1](1) == whole(1)
    with pytest.raises(Infeasible, match="size is 9"):
        parts[0][1](3)
    assert parts[0][1](2) == {"size": 6.0, "quality": 2}
    with pytest.raises(Infeasible, match="speed is 4"):  # a constraint holds where its metric is measured
        parts[1][1](2)


def test_equal_needs_share_a_place() -> None:
    both = [nas.needs(Speed(), gpus=1), nas.needs(Size(), gpus=1)]
    assert len(nas.Evaluation(both).stages()) == 1


@pytest.mark.parametrize(
    ("options", "says"),
    [
        ({"gpus": -1}, "needs was given gpus=-1; it is a finite number, 0 or more"),
        ({"gpus": 1.5}, "needs of gpus: 1.5; give a fraction of one, or a whole number"),
        ({"cpus": "two"}, "cpus='two'; it is a finite number"),
        ({"workers": 0}, "workers=0; it is a whole number, 1 or more"),
        ({"resources": {"GPU": 1}}, r"needs of resources=\{'GPU': …\}; say gpus=1"),
    ],
)
def test_needs_are_checked(options: dict[str, Any], says: str) -> None:
    with pytest.raises(EvaluationError, match=says):
        nas.needs(Speed(), **options)


def test_what_cannot_be_noted_on_is_refused() -> None:
    with pytest.raises(EvaluationError, match="cannot say what it needs; wrap it in a function"):
        nas.needs(len, gpus=1)
