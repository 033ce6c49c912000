"""What optimizers keep of parameters, when these are enlarged or their units renumbered."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor

from nas.errors import SupernetError
from nas.supernet.enlarging import Placement

_SQUARES = frozenset(
    {"exp_avg_sq", "max_exp_avg_sq", "square_avg", "sum", "acc_delta", "exp_inf", "variance", "step_size"}
)
_MOMENTUM = frozenset({"momentum_buffer", "exp_avg", "grad_avg", "prev"})
_FACTORED = frozenset({"row_var", "col_var"})


def padded(state: Mapping[str, Any], place: Placement) -> dict[str, Any]:
    """What an optimizer keeps of a parameter, for the new one; nothing, so that it starts anew, where that cannot be padded.

    Averages of squares, by the names that torch has for them, have the mean of the others for new units, so that their first
    steps are as long as those of the others: zeros would be divided by.  Momentum has zeros.  Of a name that is not known, what
    has no negative number is taken for an average of squares, and everything else for momentum.  Sums over rows and columns
    (Adafactor), and whatever else has not the parameter's shape, cannot be padded.
    """
    if place.old == place.new:
        return dict(state)
    if any(name in _FACTORED or not _fits(value, place) for name, value in state.items()):
        return {}
    return {
        name: _padded(name, value, place) if isinstance(value, Tensor) and value.shape == place.old else value
        for name, value in state.items()
    }


def _fits(value: Any, place: Placement) -> bool:
    """Whether it is of the parameter's shape, or one number."""
    if isinstance(value, Tensor):
        return value.shape == place.old or value.numel() == 1
    return _is_number(value)


def _is_number(value: Any) -> bool:
    return value is None or isinstance(value, int | float)


def _padded(name: str, state: Tensor, place: Placement) -> Tensor:
    positive = name not in _MOMENTUM and state.is_floating_point() and bool((state >= 0).all())
    new = state.new_full(place.new, float(state.mean()) if name in _SQUARES or positive else 0)
    place.put(new, state)
    return new


def along(optimizer: torch.optim.Optimizer, parameter: Tensor, dim: int) -> list[Tensor]:
    """What an optimizer keeps of a parameter for each unit along a dimension, as averages and sums over other dimensions.

    What has another form (lists, vectors) is forgotten, so that the parameter starts anew.
    """
    state = optimizer.state.get(parameter, {})
    tensors = [one for one in state.values() if isinstance(one, Tensor) and one.numel() > 1]
    alike = all(one.dim() == parameter.dim() and one.shape[dim] in (1, parameter.shape[dim]) for one in tensors)
    if not alike or not all(isinstance(one, Tensor) or _is_number(one) for one in state.values()):
        optimizer.state.pop(parameter, None)
        return []
    return [one for one in tensors if one.shape[dim] > 1]


def check_separate(optimizer: torch.optim.Optimizer | None) -> None:
    """Refuse an optimizer that does not keep what it knows by parameter.

    Raises:
        SupernetError: it is LBFGS.
    """
    if isinstance(optimizer, torch.optim.LBFGS):
        raise SupernetError(
            "LBFGS keeps gradients of all parameters as one vector, whose units cannot be told; leave optimizer= out, and make "
            "another one of the supernet's parameters afterwards"
        )
