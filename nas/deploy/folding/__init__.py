"""Folding a network before it is deployed: fewer layers, the same outputs.

- `fold(module, example)`: convolution and BatchNorm, linear and BatchNorm, norms of other forms, pairs of layers; checked.
- `Folded`: the module, what was merged, and what was left with the reason.
"""

from nas.deploy.folding.checking import Folded, fold

__all__ = ["Folded", "fold"]
