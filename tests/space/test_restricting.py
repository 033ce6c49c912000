"""Spaces in which a rule forbids some archs: `where=` and `restricted`."""

from __future__ import annotations

import pickle
import random
from typing import Any

import pyglove as pg
import pytest

import nas
from nas.errors import SpaceError
from nas.search import ALGORITHMS, Exhausted, Finished, make
from nas.search.insight import Insight
from nas.space import Arch


def divides(choices: dict[str, Any]) -> bool:
    return bool(choices["width"] % choices["heads"] == 0)


def attention(widths: list[int], heads: list[int], **options: Any) -> nas.Space:
    return nas.Space({"width": pg.oneof(widths), "heads": pg.oneof(heads)}, where=divides, **options)


def right(archs: Any) -> bool:
    return all(divides(arch.choices) for arch in archs)


def test_nothing_gives_an_arch_that_is_forbidden() -> None:
    space = attention([12, 16, 24], [2, 3, 8])
    rng = random.Random(0)
    sampled = [space.sample(rng) for _ in range(100)]
    mutants = [space.mutate(arch, rng) for arch in sampled]
    children = [space.crossover(a, b, rng) for a, b in zip(sampled, mutants, strict=True)]
    near = [other for arch in sampled for other in space.neighbours(arch)]
    every = list(space.enumerate())
    assert right([*sampled, *mutants, *children, *near, *every, *space.covering(), space.largest, space.smallest])
    assert space.size == len(every) == 7
    assert set(sampled) == set(every)
    assert all(a != b for a, b in zip(sampled, mutants, strict=True))


@pytest.mark.parametrize(
    ("widths", "heads", "largest", "smallest"),
    [
        ([16, 24], [2, 6, 8], (24, 8), (16, 2)),
        ([16, 24], [2, 16], (16, 16), (16, 2)),
        ([12, 24], [5, 8], (24, 8), (24, 8)),
        ([10, 12, 14, 16], [3, 4, 7], (14, 7), (12, 3)),
    ],
)
def test_extremes_are_the_closest_that_are_allowed(
    widths: list[int], heads: list[int], largest: tuple[int, int], smallest: tuple[int, int]
) -> None:
    space = attention(widths, heads)
    for arch, expected in ((space.largest, largest), (space.smallest, smallest)):
        assert (arch.choices["width"], arch.choices["heads"]) == expected


def test_covering_has_every_candidate_that_an_allowed_arch_has() -> None:
    space = attention([10, 12, 14, 16], [3, 4, 7, 11])
    found = {(name, value) for arch in space.covering() for name, value in arch.choices.items()}
    wanted = {(name, value) for arch in space.enumerate() for name, value in arch.choices.items()}
    assert found == wanted
    assert ("heads", 11) not in found


def test_choices_that_are_forbidden_are_refused() -> None:
    space = attention([16, 24], [2, 6, 8])
    with pytest.raises(SpaceError, match=r"\{'width': 16, 'heads': 6\} is outside space 's': its where= refuses it"):
        attention([16, 24], [2, 6, 8], name="s").arch({"width": 16, "heads": 6})
    assert {"width": 24, "heads": 6} in space
    assert {"width": 16, "heads": 6} not in space


def test_a_space_without_an_allowed_arch_says_so() -> None:
    space = attention([16, 24], [5, 7], name="s")
    assert space.size == 0
    with pytest.raises(SpaceError, match="none of 1000 random archs of space 's' is allowed; loosen where="):
        space.sample(random.Random(0))
    with pytest.raises(SpaceError, match="archs of space 's' that were looked at is allowed"):
        _ = space.largest


def test_a_rule_that_fails_is_named() -> None:
    space = nas.Space(
        {"op": pg.oneof([pg.Dict(k=pg.oneof([1, 2])), "skip"])},
        name="s",
        where=lambda c: c["op={k: oneof(1, 2)}.k"] > 1,
    )
    with pytest.raises(SpaceError, match="where= of space 's' failed on arch .* inactive decisions are left out"):
        list(space.enumerate())


def test_the_rule_travels() -> None:
    space = attention([16, 24], [2, 6, 8])
    again = pickle.loads(pickle.dumps(space.restricted(only_wide)))
    assert {arch.choices["width"] for arch in again.enumerate()} == {24}
    assert again.size == 3
    assert again.fingerprint == space.fingerprint
    assert again.largest == space.largest


def only_wide(arch: Arch) -> bool:
    return bool(arch.choices["width"] == 24)


@pytest.mark.parametrize(
    "name", sorted(set(ALGORITHMS) - {"given", "policy", "robot"})
)  # which asks what it is given; and ranks what space.sample and enumerate give
def test_no_algorithm_proposes_what_is_forbidden(name: str) -> None:
    space = attention([8, 12, 16, 24, 30], [2, 3, 4, 5, 8])
    algorithm = make(name, **({"from_": []} if name == "transfer" else {}))
    algorithm.inform(Insight(fidelity=("epochs", 9.0), varying=("acc",)))
    algorithm.bind(space, [nas.Metric("acc", "max")])
    proposed: list[Arch] = []
    try:
        while len(proposed) < 40:
            archs = algorithm.ask(2)
            proposed += archs
            algorithm.tell(
                [Finished(len(proposed) - i, arch, (-float(arch.choices["width"]),)) for i, arch in enumerate(archs)]
            )
    except Exhausted:
        pass
    assert right(proposed)
    assert len(set(proposed)) == len(proposed) == space.size
