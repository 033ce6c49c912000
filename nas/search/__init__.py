"""Search algorithms: ask for archs, tell what became of them.

- `Algorithm`: the contract; `Finished`, `History`, `LazyArchs`: what it is told; `Exhausted`: nothing is left to propose.
- `RandomSearch`, `Exhaustive`, `Given`: without a memory of quality; the last the archs that somebody chose.
- `RegularizedEvolution`: a queue that forgets the oldest.
- `Surrogate`: the default; Gaussian processes say what an arch would measure, and the largest expected gain is asked.
- `MultiFidelity`: the same with cheap partial evaluations; which arch is evaluated, and how far.
- `Compose`: single replacements are measured and added up, and the best archs are composed by integer programming.
- `NSGA2`: several objectives, constraints; asynchronous, or synchronous where answers must not depend on the workers.
- `LINAS`, `ConcurrentNAS`: rounds of evolution on predictors, measured; for one target, for several in turn.
- `LocalSearch`: neighbours of the front, and again from elsewhere; `QualityDiversity`: the best of each cost bucket, bred.
- `MCTS`, `SMBO`: down the tree of decisions by confidence bounds; the best of many samples by a regression.
- `REINFORCE`: a distribution over each decision, learnt from a reward that knows the cost.
- `PolicySearch`: proposals of such a distribution that was trained beside a supernet's weights.
- `DNASearch`, `OptunaSearch`: any generator of PyGlove's, any sampler of Optuna's.
- `RoBoT`: weights of proxies by a Gaussian process, then down the ranking by the best.
- `Transfer`, `Source`: an algorithm that begins where similar studies ended.
- `make`, `ALGORITHMS`: algorithms by name.
"""

from __future__ import annotations

from nas.search.base import Algorithm, Exhausted, Finished, History, LazyArchs
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
from nas.search.registry import ALGORITHMS, make
from nas.search.regularized import RegularizedEvolution
from nas.search.reinforce import REINFORCE
from nas.search.robot import RoBoT
from nas.search.simple import Exhaustive, RandomSearch
from nas.search.smbo import SMBO
from nas.search.sources import Source
from nas.search.surrogate import Surrogate
from nas.search.transfer import Transfer

__all__ = [
    "ALGORITHMS",
    "LINAS",
    "MCTS",
    "NSGA2",
    "REINFORCE",
    "SMBO",
    "Algorithm",
    "Compose",
    "ConcurrentNAS",
    "DNASearch",
    "Exhausted",
    "Exhaustive",
    "Finished",
    "Given",
    "History",
    "LazyArchs",
    "LocalSearch",
    "MultiFidelity",
    "OptunaSearch",
    "PolicySearch",
    "QualityDiversity",
    "RandomSearch",
    "RegularizedEvolution",
    "RoBoT",
    "Source",
    "Surrogate",
    "Transfer",
    "make",
]
