"""Algorithms by name."""

from __future__ import annotations

import subprocess
import sys

import pytest

from nas.errors import AlgorithmError
from nas.search import ALGORITHMS, NSGA2, Exhaustive, RegularizedEvolution, make


def test_names_and_options_make_algorithms() -> None:
    algorithm = make("nsga2", population=30, seed=4)
    assert isinstance(algorithm, NSGA2)
    assert (algorithm.population, algorithm.seed) == (30, 4)
    assert isinstance(make("regularized-evolution", sample=3), RegularizedEvolution)
    needed = {"robot": {"proxies": "searchspaces.nasbench201:function"}}
    assert all(make(name, **needed.get(name, {})).describe()["name"] == name for name in ALGORITHMS)
    assert make("exhaustive").describe() == {"name": "exhaustive"}
    assert repr(make("nsga2")) == "NSGA2(population=100, crossover=0.9, mutation=None, seed=0, synchronous=False)"


def test_wrong_names_and_options_get_one_sentence_with_a_suggestion() -> None:
    with pytest.raises(
        AlgorithmError, match=r"no algorithm is named 'nsga-2'; there are random, .*; did you mean 'nsga2'\?"
    ):
        make("nsga-2")
    with pytest.raises(AlgorithmError, match=r"nsga2 has no option 'popluation'; .*; did you mean 'population'\?"):
        make("nsga2", popluation=3)
    with pytest.raises(AlgorithmError, match="exhaustive has no option 'seed'; it has none"):
        make("exhaustive", seed=3)
    assert isinstance(make("exhaustive"), Exhaustive)


def test_importing_search_needs_neither_torch_nor_pyglove() -> None:
    code = "import nas.search, sys; assert not {'torch', 'pyglove', 'ray', 'sqlalchemy'} & set(sys.modules)"
    subprocess.run([sys.executable, "-c", code], check=True)
