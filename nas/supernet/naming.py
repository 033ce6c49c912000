"""An `nn.Sequential` whose layers are called the same at every depth."""

from __future__ import annotations

from collections import OrderedDict

from torch import nn

from nas.errors import SupernetError


def sequential(*layers: nn.Module, **last: nn.Module) -> nn.Sequential:
    """An `nn.Sequential` of `layers`, called by their number, and then of `last`, called by their keywords.

    Layers of a supernet share weights by name.  In a plain `nn.Sequential` whatever comes after a part of elastic depth has
    another number, and so the weights of other layers, at each depth.

    >>> [name for name, _ in sequential(nn.Linear(4, 8), nn.ReLU(), head=nn.Linear(8, 2)).named_children()]
    ['0', '1', 'head']

    Raises:
        SupernetError: something is no module, or a name is one that `nn.Sequential` uses.
    """
    named = {**{str(place): layer for place, layer in enumerate(layers)}, **last}
    for name, layer in named.items():
        if not isinstance(layer, nn.Module):
            raise SupernetError(f"sequential was given {name}={layer!r}, a {type(layer).__name__}; give modules")
        if hasattr(nn.Sequential, name):
            raise SupernetError(f"sequential was given {name!r}, which nn.Sequential has already; choose another name")
    return nn.Sequential(OrderedDict(named))
