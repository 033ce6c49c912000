"""Search algorithms: ask for archs, tell what became of them.

- `Algorithm`: the contract; `Finished`, `History`, `LazyArchs`: what it is told; `Exhausted`: nothing is left to propose.
- `RandomSearch`, `Exhaustive`: without a memory of quality.
- `RegularizedEvolution`: a queue that forgets the oldest.
- `NSGA2`: several objectives, constraints; asynchronous, or synchronous where answers must not depend on the workers.
- `LINAS`, `ConcurrentNAS`: rounds of evolution on predictors, measured; for one target, for several in turn.
- `make`, `ALGORITHMS`: algorithms by name.
"""

from __future__ import annotations

from nas.search.base import Algorithm, Exhausted, Finished, History, LazyArchs
from nas.search.concurrent_nas import ConcurrentNAS
from nas.search.linas import LINAS
from nas.search.nsga2 import NSGA2
from nas.search.registry import ALGORITHMS, make
from nas.search.regularized import RegularizedEvolution
from nas.search.simple import Exhaustive, RandomSearch

__all__ = [
    "ALGORITHMS",
    "LINAS",
    "NSGA2",
    "Algorithm",
    "ConcurrentNAS",
    "Exhausted",
    "Exhaustive",
    "Finished",
    "History",
    "LazyArchs",
    "RandomSearch",
    "RegularizedEvolution",
    "make",
]
