"""`Space.regrow`: a mutation that draws a decision anew with all that hangs on it."""

from __future__ import annotations

from collections import Counter
from random import Random
from typing import Any

import pyglove as pg

import nas


def grammar() -> nas.Space:
    """Two productions that share their children, two levels deep, with an end."""
    node = {"kind": pg.oneof(["end", "left", "right"]), "size": pg.oneof([1, 2, 3])}
    tree = {**node, "inner": {**node, "inner": node}}
    conditions = {"inner.kind": ("kind", ["left", "right"]), "inner.inner.kind": ("inner.kind", ["left", "right"])}
    sizes = {f"{at}size": (f"{at}kind", ["end"]) for at in ("", "inner.", "inner.inner.")}
    return nas.Space(tree, active_when=conditions | sizes)


def test_regrowing_draws_a_uniform_decision_and_its_subtree_as_sampling_does() -> None:
    """Against a slow second implementation: whole archs are drawn until one agrees outside the subtree and differs in it."""
    space, draws = grammar(), 6000
    arch = space.arch({"kind": "left", "inner.kind": "right", "inner.inner.kind": "end", "inner.inner.size": 2})
    rng = Random(0)

    def slowly() -> tuple[Any, ...]:
        root = rng.choice([d for d in space.decisions if arch.genome[d.index] is not None])
        below = {root.index}
        while more := {d.index for d in space.decisions if d.point.parent in below} - below:
            below |= more
        while True:
            drawn = space.sample(rng).genome
            if drawn != arch.genome and all(
                x == y for p, (x, y) in enumerate(zip(arch.genome, drawn, strict=True)) if p not in below
            ):
                return drawn

    ours, slow = (Counter(one() for _ in range(draws)) for one in (lambda: space.regrow(arch, rng).genome, slowly))
    assert ours.keys() == slow.keys()
    assert all(abs(ours[genome] - slow[genome]) < 5 * (2 * ours[genome]) ** 0.5 + 5 for genome in ours)


def test_mutation_keeps_what_hangs_on_a_production_and_regrowing_does_not() -> None:
    space, rng = grammar(), Random(0)
    arch = space.arch({"kind": "left", "inner.kind": "end", "inner.size": 3})
    right = [one for one in (space.mutate(arch, rng) for _ in range(300)) if one.choices["kind"] == "right"]
    assert {str(one.choices) for one in right} == {str({"kind": "right", "inner.kind": "end", "inner.size": 3})}
    right = [one for one in (space.regrow(arch, rng) for _ in range(300)) if one.choices["kind"] == "right"]
    assert len({one.key for one in right}) > 5


def test_regrowing_keeps_to_a_rule() -> None:
    space = nas.Space(grammar().value, where=lambda choices: choices["kind"] != "right")
    rng = Random(0)
    arch = space.sample(rng)
    for _ in range(100):
        arch = space.regrow(arch, rng)
        assert space.allows(arch)
