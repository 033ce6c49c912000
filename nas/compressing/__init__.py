"""From a trained model to the best network within a budget.

compress    one call: convert, order, warm up, search on a few batches, tune beside uniform scaling, measure
profile     what the networks of a space cost before any training, and which budgets they can meet
Budget      the most that a network may cost, absolute or relative to the original
Blocks      alternatives of every block taught by themselves and kept, and networks composed of them
Calibration how much a subnet lost, on a few training batches
sensitivities what each decision alone loses, and the network of a budget by a threshold of that
uniform     the arch with as large a share of every number
"""

from __future__ import annotations

from nas.compressing.blocks import Blocks
from nas.compressing.budgets import Budget, parse_budget, parse_budgets
from nas.compressing.calibration import Calibration
from nas.compressing.family import Family, Members
from nas.compressing.memory import Memory
from nas.compressing.near import Near
from nas.compressing.profiling import Profile, profile
from nas.compressing.recipe import compress
from nas.compressing.result import Choice, Compressed
from nas.compressing.sensitivity import Sensitivities, sensitivities
from nas.compressing.uniform import uniform

__all__ = [
    "Blocks",
    "Budget",
    "Calibration",
    "Choice",
    "Compressed",
    "Family",
    "Members",
    "Memory",
    "Near",
    "Profile",
    "Sensitivities",
    "compress",
    "parse_budget",
    "parse_budgets",
    "profile",
    "sensitivities",
    "uniform",
]
