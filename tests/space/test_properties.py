"""What holds for every space of the generated family."""

from __future__ import annotations

import itertools
import json
import pickle
from random import Random

import pyglove as pg
from hypothesis import HealthCheck, assume, given, settings
from hypothesis import strategies as st

import nas
from tests.space.families import contents, plain, spaces

quick = settings(max_examples=60, deadline=None, derandomize=True, suppress_health_check=list(HealthCheck))
slower = settings(quick, max_examples=15)  # PyGlove takes 20-100 ms for a DNA or a value
seeds = st.integers(0, 10**6)


def some_archs(space: nas.Space, rng: Random, n: int = 4) -> list[nas.Arch]:
    """Archs from every way to make one."""
    archs = [space.sample(rng) for _ in range(n)]
    archs += [space.mutate(arch, rng) for arch in archs] + [space.mutate(arch, rng, 0.5) for arch in archs[:2]]
    archs += [space.crossover(a, b, rng) for a, b in itertools.pairwise(archs)]
    return [*archs, space.largest, space.smallest]


@slower
@given(spaces(floats=True), seeds)
def test_every_way_to_make_an_arch_stays_in_the_space_for_us_and_for_pyglove(space: nas.Space, seed: int) -> None:
    spec = pg.dna_spec(space.value)
    for arch in some_archs(space, Random(seed)):
        assert space.from_genome(arch.genome) == arch
        assert arch in space
        assert arch.choices in space
        dna = space.to_dna(arch)
        dna.use_spec(spec)  # validates ranges, distinctness and order
        assert space.from_dna(dna) == arch


@slower
@given(spaces(floats=True), seeds)
def test_archs_survive_every_outside_form(space: nas.Space, seed: int) -> None:
    for arch in some_archs(space, Random(seed), n=2):
        assert space.arch(arch.choices) == arch
        assert space.arch(json.loads(json.dumps(arch.to_json()))["choices"]) == arch
        row = json.loads(json.dumps(arch.row()))
        assert space.from_row(row) == arch
        assert space.from_row(row, json.loads(json.dumps(space.schema()))) == arch
        assert space.rows_to_archs([row]) == [arch]
        assert space.from_dna(pg.from_json_str(space.to_dna(arch).to_json_str())) == arch
        copy = pickle.loads(pickle.dumps(arch))
        assert copy == arch
        assert hash(copy) == hash(arch)
        assert copy.key == arch.key


@slower
@given(spaces(floats=True), seeds)
def test_the_closed_value_is_what_pyglove_decodes(space: nas.Space, seed: int) -> None:
    template = pg.template(space.value)
    for arch in some_archs(space, Random(seed), n=2):
        decoded = template.decode(space.to_dna(arch))
        assert plain(arch.value) == plain(decoded)
        assert pg.eq(arch.value, decoded)


@quick
@given(spaces())
def test_size_is_what_enumeration_and_brute_force_count(space: nas.Space) -> None:
    assume(space.size <= 3000)
    expected = contents(space.value)
    archs = list(space.enumerate())
    assert len(archs) == space.size == len(set(archs)) == len({arch.key for arch in archs})
    assert len(set(expected)) == space.size
    # Equal candidates count twice in both of these.
    assert pg.dna_spec(space.value).space_size == len(expected)
    if space.size <= 200:
        assert {plain(arch.value) for arch in archs} == set(expected)


@quick
@given(spaces(floats=True), seeds)
def test_keys_are_equal_exactly_when_values_are(space: nas.Space, seed: int) -> None:
    for a, b in itertools.pairwise(some_archs(space, Random(seed))):
        assert (a.key == b.key) == (plain(a.value) == plain(b.value)) == (a == b)


@quick
@given(spaces(floats=True), seeds)
def test_a_mutation_always_differs_unless_there_is_one_arch(space: nas.Space, seed: int) -> None:
    rng = Random(seed)
    lonely = space.size == 1 and all(
        d.point.range is None or d.point.range.low == d.point.range.high for d in space.decisions
    )
    for probability in (None, 0.0, 0.5, 1.0):
        arch = space.sample(rng)
        mutant = space.mutate(arch, rng, probability)
        assert (mutant == arch) == lonely or space.floats


@quick
@given(spaces(floats=True), seeds)
def test_regrowing_changes_one_decision_and_what_hangs_on_it(space: nas.Space, seed: int) -> None:
    rng = Random(seed)
    lonely = space.size == 1 and not space.floats
    for _ in range(5):
        arch = space.sample(rng)
        grown = space.regrow(arch, rng)
        assert space.from_genome(grown.genome) == grown
        assert (grown == arch) == lonely or space.floats
        changed = [d for d, x, y in zip(space.decisions, arch.genome, grown.genome, strict=True) if x != y]
        if not changed:
            continue
        assert any(
            all(
                d.index in (root.point.group.slots if root.point.group else (root.index,)) or _is_above(space, root, d)
                for d in changed
            )
            for root in space.decisions
            if arch.genome[root.index] is not None and grown.genome[root.index] is not None
        )


@quick
@given(spaces())
def test_regrowing_reaches_every_arch(space: nas.Space) -> None:
    assume(1 < space.size <= 40)
    rng, arch = Random(0), space.smallest
    reached = {arch}
    for _ in range(400 * space.size):
        arch = space.regrow(arch, rng)
        reached.add(arch)
        if len(reached) == space.size:
            break
    assert len(reached) == space.size


@quick
@given(spaces(), seeds)
def test_neighbours_are_the_archs_one_decision_away(space: nas.Space, seed: int) -> None:
    arch = space.sample(Random(seed))
    neighbours = list(space.neighbours(arch))
    assert len(set(neighbours)) == len(neighbours)
    assert arch not in neighbours
    for near in neighbours:
        assert space.from_genome(near.genome) == near
        changed = [
            d
            for d, x, y in zip(space.decisions, arch.genome, near.genome, strict=True)
            if x != y and None not in (x, y)
        ]
        # One decision, or the slots of one group; what hangs below changes with it.
        roots = [d for d in changed if not any(_is_above(space, other, d) for other in changed)]
        groups = {d.point.group.slots if d.point.group else (d.index,) for d in roots}
        assert len(groups) == 1
    assert bool(neighbours) == (space.size > 1)


def _is_above(space: nas.Space, other: nas.space.Decision, decision: nas.space.Decision) -> bool:
    """Whether `other`, or a slot of its group, is an ancestor of `decision`."""
    slots = other.point.group.slots if other.point.group else (other.index,)
    p = decision.point.parent
    while p >= 0:
        if p in slots and decision.index not in slots:
            return True
        p = space.decisions[p].point.parent
    return False


@quick
@given(spaces(floats=True), seeds)
def test_a_child_takes_every_decision_from_a_parent(space: nas.Space, seed: int) -> None:
    rng = Random(seed)
    a, b = space.sample(rng), space.sample(rng)
    child = space.crossover(a, b, rng)
    assert space.from_genome(child.genome) == child
    assert all(gene in (x, y) for gene, x, y in zip(child.genome, a.genome, b.genome, strict=True))


@quick
@given(spaces(), seeds)
def test_covering_shows_every_candidate_that_any_arch_has(space: nas.Space, seed: int) -> None:
    covering = space.covering()
    shown = {(d, c) for arch in covering for d, c in enumerate(arch.genome)}
    assert covering[0] == space.largest
    for arch in covering:
        assert space.from_genome(arch.genome) == arch
    rng = Random(seed)
    for arch in [space.sample(rng) for _ in range(20)]:
        assert {(d, c) for d, c in enumerate(arch.genome) if c is not None} <= shown


@quick
@given(spaces(floats=True), seeds)
def test_features_tell_archs_apart(space: nas.Space, seed: int) -> None:
    archs = list(dict.fromkeys(some_archs(space, Random(seed))))
    for kind in ("onehot", "ordinal"):
        features = space.features(archs, kind)
        assert features.shape == (len(archs), len(space.feature_names(kind)))
        assert features.max(initial=0.0) <= 1.0
        assert features.min(initial=0.0) >= (-1.0 if kind == "ordinal" else 0.0)
    assert len({tuple(row) for row in space.features(archs, "ordinal")}) == len(archs)


@quick
@given(spaces(floats=True), seeds)
def test_a_full_vector_is_repaired_into_the_space(space: nas.Space, seed: int) -> None:
    rng = Random(seed)
    numbers = [
        rng.uniform(d.point.range.low, d.point.range.high) if d.point.range else rng.randrange(len(d.labels))
        for d in space.decisions
    ]
    arch = space.repair(numbers)
    assert space.from_genome(arch.genome) == arch


@quick
@given(spaces(floats=True), seeds)
def test_the_same_seed_gives_the_same_archs_in_a_copy_of_the_space(space: nas.Space, seed: int) -> None:
    copy = pickle.loads(pickle.dumps(space))
    assert copy.fingerprint == space.fingerprint
    assert some_archs(copy, Random(seed)) == some_archs(space, Random(seed))
