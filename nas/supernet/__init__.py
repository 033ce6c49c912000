"""One set of weights for every model of a space.

- `Supernet(space, …)`: `forward`, `bind`, `cut`, `extract`, `calibrate`, `params`, `macs`, `save`, `load`.
- `Binding`: a subnet on the supernet's weights and gradients, ready to be called.
- `Cut`: how a parameter of a subnet is taken from the supernet's: `Corner` (the rule), `Layout`, `CentreCrop`, `KernelTransform`.
- `reorder`: channels by importance, before narrower subnets are cut; by `axes`, `Axis`, `importance` and `importances`.
- `factorize`: layers as two factors (`nas.elastic(…, rank=True)`), from weights or from what the layers give on data.
- `fit_linear`: linear maps in the place of blocks (`nas.elastic(…, linear=True)`), by least squares on data.
- `Score`: an importance score: `Magnitude`, `MeanActivation`, `Activations`, `Taylor`, `Fisher`, `GroupFisher`, `HESSO`.
- `sequential`: an `nn.Sequential` whose last layers have the same names at every depth.
- `Residuals`: blocks one after another or side by side, on the same weights.
- `grow`: a supernet of a larger space, with the weights of a smaller one.
- `check`: what is suspicious about a supernet, as `Findings`.
- `Inputs`: what a model is called with; `Example`: which of their axes is the batch's.
"""

from nas.supernet.binding import Binding
from nas.supernet.factorizing import factorize
from nas.supernet.findings import Finding, Findings, check
from nas.supernet.fitting import fit_linear
from nas.supernet.fused import Layout
from nas.supernet.growing import grow
from nas.supernet.inputs import Example, Inputs
from nas.supernet.layouts import CentreCrop, Corner, Cut, KernelTransform
from nas.supernet.naming import sequential
from nas.supernet.order import Axis, axes, importance, importances, reorder
from nas.supernet.residuals import Residuals
from nas.supernet.scores import HESSO, Activations, Fisher, GroupFisher, Magnitude, MeanActivation, Score, Taylor
from nas.supernet.supernet import Supernet

__all__ = [
    "HESSO",
    "Activations",
    "Axis",
    "Binding",
    "CentreCrop",
    "Corner",
    "Cut",
    "Example",
    "Finding",
    "Findings",
    "Fisher",
    "GroupFisher",
    "Inputs",
    "KernelTransform",
    "Layout",
    "Magnitude",
    "MeanActivation",
    "Residuals",
    "Score",
    "Supernet",
    "Taylor",
    "axes",
    "check",
    "factorize",
    "fit_linear",
    "grow",
    "importance",
    "importances",
    "reorder",
    "sequential",
]
