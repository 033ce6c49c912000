"""Negative control: every wrong plan made from a right one is refused."""

from __future__ import annotations

import pytest

from nas.convert import controls
from nas.convert.elastic import elastic
from tests.convert.nets import NETS


@pytest.mark.parametrize("name", NETS)
def test_every_wrong_plan_is_refused(name: str) -> None:
    module, plan, example = NETS[name]()
    every = list(controls.controls(plan))
    assert len(every) >= 10
    missed = [(one.kind, one.what) for one in every if not controls.tried(module, one, example)]
    assert missed == []


def test_heads_are_among_the_controls() -> None:
    found = controls.sample(NETS["attention"]()[1], 5)
    assert len(found) == 5
    assert [one.what for one in found if one.kind == "flattened"] == ["(heads hd)"]


def test_an_axis_left_out_differs_in_that_place_alone() -> None:
    _, plan, _ = NETS["recurrent"]()
    one = next(one for one in controls.controls(plan) if one.what == "axis 0 of 'lstm.weight_ih_l0', 'h'")
    assert one.plan.tensors["lstm.weight_ih_l0"] == ((4, "control"), ("g",))
    assert {name for name, axes in plan.tensors.items() if one.plan.tensors[name] != axes} == {"lstm.weight_ih_l0"}
    assert one.plan.atoms["control"].size == 5


@pytest.mark.parametrize("name", ["attention", "conv", "branches"])
def test_wrong_plans_made_from_a_conversion_are_refused(name: str) -> None:
    module, _, example = NETS[name]()
    plan = elastic(module, example, granule=1).plan
    every = controls.sample(plan, 12)
    assert len(every) >= 8
    assert [(one.kind, one.what) for one in every if not controls.tried(module, one, example)] == []
