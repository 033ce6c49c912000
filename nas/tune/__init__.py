"""Ray Tune: our algorithms for its users, its schedulers for our studies.

Tune costs tens of milliseconds and several files a trial, which is nothing beside a training and everything beside a
supernet's subnet: studies of subnets run on workers (`Study.run`), studies of trainings may run here.

Searcher        an algorithm of ours in a user's own `Tuner`; several objectives
run             the trials of a study on Tune, with a scheduler; the study's store stays the truth
ParetoHalving   a scheduler for several objectives: successive halving by non-dominated sorting
Rungs           its decisions, without Ray
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from nas import lazy
from nas.tune.rungs import Rungs

if TYPE_CHECKING:
    from nas.tune.halving import ParetoHalving
    from nas.tune.running import run
    from nas.tune.searcher import Searcher

__all__ = ["ParetoHalving", "Rungs", "Searcher", "run"]

# Ray takes seconds to import.
_HOME = {
    "ParetoHalving": "nas.tune.halving",
    "Searcher": "nas.tune.searcher",
    "run": "nas.tune.running",
}

if not TYPE_CHECKING:
    __getattr__ = lazy.names(__name__, _HOME)
