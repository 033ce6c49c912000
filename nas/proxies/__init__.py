"""Zero-cost proxies: scores of a network at initialisation, from one batch and no training.

- `Proxies`: the evaluator; `NAMES`: what it can compute; `UNDEFINED`: the score where a proxy is not defined.
- `Probe`: a network and a batch; each proxy is a function from a probe to a number:
  `grad_norm`, `snip`, `grasp`, `fisher`, `synflow` (gradients of weights), `jacob_cov`, `naswot` (differences between samples),
  `zen` (reaction to a small change of the input), `diswot` (likeness to a teacher).
"""

from __future__ import annotations

from nas.proxies.diswot import diswot
from nas.proxies.evaluator import NAMES, PROXIES, UNDEFINED, Proxies
from nas.proxies.gradients import fisher, grad_norm, grasp, snip, synflow
from nas.proxies.kernels import jacob_cov, naswot
from nas.proxies.probe import Probe
from nas.proxies.zen import zen

__all__ = [
    "NAMES",
    "PROXIES",
    "UNDEFINED",
    "Probe",
    "Proxies",
    "diswot",
    "fisher",
    "grad_norm",
    "grasp",
    "jacob_cov",
    "naswot",
    "snip",
    "synflow",
    "zen",
]
