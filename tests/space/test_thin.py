"""The shortest proof that a space works; the properties are in test_properties.py."""

from __future__ import annotations

import random

import pyglove as pg

import nas


def test_a_flat_spelling_has_one_genome_per_arch() -> None:
    space = nas.Space(
        {"depth": pg.oneof([2, 3, 4]), "k": [pg.oneof([3, 5]) for _ in range(3)]},
        active_when={"k[1]": ("depth", {3, 4}), "k[2]": ("depth", [4])},
    )
    assert space.size == len(set(space.enumerate())) == 14
    arch = space.sample(random.Random(0))
    assert space.arch(arch.choices) == arch
