"""Columns of replacements, and the archs that have one."""

from __future__ import annotations

import pyglove as pg

from nas.search.replacements import Replacements
from nas.space import Space
from tests.conformance.algorithm import conditional, flat


def test_singles_have_every_candidate_once_and_one_column_each() -> None:
    replacements = Replacements(flat(3), flat(3).largest, 8)
    singles = list(replacements.singles(1))
    assert singles[0] is flat(3).largest
    columns = replacements(singles)
    assert columns.shape == (10, 9)
    assert columns.sum(1).tolist() == [0.0, *[1.0] * 9]
    assert columns.sum(0).tolist() == [1.0] * 9
    assert singles[1].genome[1] == 0  # the farthest candidate of the decision that comes first


def test_every_candidate_of_a_conditional_space_is_in_a_single() -> None:
    space = conditional()
    replacements = Replacements(space, space.smallest, 8)
    singles = list(replacements.singles(0))
    assert all(space.why_not(arch.choices) is None for arch in singles)
    shown = {(at, gene) for arch in singles for at, gene in enumerate(arch.genome) if gene is not None}
    reachable = {(at, gene) for arch in space.enumerate() for at, gene in enumerate(arch.genome) if gene is not None}
    assert shown == reachable


def test_values_between_those_that_are_tried_are_interpolated() -> None:
    space = Space(pg.Dict(width=pg.oneof(list(range(0, 90, 10))), rate=pg.floatv(0.0, 1.0)), name="numbers")
    replacements = Replacements(space, space.largest, 2)
    assert [sorted({arch.choices[name] for arch in replacements.singles(0)}) for name in space.names] == [
        [0, 40, 80],
        [0.0, 0.5, 1.0],
    ]
    some = [space.arch({"width": width, "rate": rate}) for width, rate in ((80, 1.0), (0, 0.0), (30, 0.25))]
    assert replacements(some).tolist() == [[0, 0, 0, 0], [1, 0, 1, 0], [0.25, 0.75, 0.5, 0.5]]
