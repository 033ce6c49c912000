"""Algorithms by name, for the command line and for studies that are resumed."""

from __future__ import annotations

import inspect
from typing import Any

from nas.checking import checked
from nas.errors import AlgorithmError, suggest
from nas.search.base import Algorithm
from nas.search.compose import Compose
from nas.search.concurrent_nas import ConcurrentNAS
from nas.search.dna_search import DNASearch
from nas.search.fidelity import MultiFidelity
from nas.search.given import Given
from nas.search.linas import LINAS
from nas.search.local_search import LocalSearch
from nas.search.mcts import MCTS
from nas.search.nsga2 import NSGA2
from nas.search.optuna_search import OptunaSearch
from nas.search.policy_search import PolicySearch
from nas.search.quality_diversity import QualityDiversity
from nas.search.regularized import RegularizedEvolution
from nas.search.reinforce import REINFORCE
from nas.search.robot import RoBoT
from nas.search.simple import Exhaustive, RandomSearch
from nas.search.smbo import SMBO
from nas.search.surrogate import Surrogate
from nas.search.transfer import Transfer

ALGORITHMS: dict[str, type[Algorithm]] = {
    kind.name: kind
    for kind in (
        RandomSearch,
        Exhaustive,
        Given,
        Surrogate,
        MultiFidelity,
        RegularizedEvolution,
        NSGA2,
        Compose,
        LINAS,
        ConcurrentNAS,
        LocalSearch,
        QualityDiversity,
        MCTS,
        SMBO,
        REINFORCE,
        PolicySearch,
        DNASearch,
        OptunaSearch,
        RoBoT,
        Transfer,
    )
}


@checked(AlgorithmError)
def make(name: str, **options: Any) -> Algorithm:
    """The algorithm of that name, with these options.

    >>> make("nsga2", population=50)
    NSGA2(population=50, crossover=0.9, mutation=None, seed=0, synchronous=False)

    Raises:
        AlgorithmError: no algorithm has that name, it has no such option, or an option's value is not what it must be.
    """
    kind = ALGORITHMS.get(name)
    if kind is None:
        raise AlgorithmError(
            f"no algorithm is named {name!r}; there are {', '.join(ALGORITHMS)}{suggest(name, ALGORITHMS)}"
        )
    known = list(inspect.signature(kind).parameters)
    for option in options:
        if option not in known:
            has = f"its options are {', '.join(known)}" if known else "it has none"
            raise AlgorithmError(f"{name} has no option {option!r}; {has}{suggest(option, known)}")
    return kind(**options)
