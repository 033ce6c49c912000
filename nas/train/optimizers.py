"""Optimizers: torch's by name and options, others by a function that makes them."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Mapping
from typing import Any, TypeAlias

import torch
from torch import Tensor

from nas.checking import shown
from nas.errors import TrainError, suggest

Maker: TypeAlias = Callable[..., torch.optim.Optimizer]

# Why a training cannot use it.
_UNFIT = {
    "lbfgs": "evaluates the loss several times a step",
    "sparseadam": "is for sparse gradients",
    "rprop": "is for whole data sets, not batches",
    "muon": "takes matrices alone; combine it with another one in a function of your own",
}
_FIXED = {"params", "lr", "fused", "foreach", "capturable", "differentiable"}  # of the training, or how it is computed
_OURS = {"params": "they are the supernet's", "lr": "give lr=", "weight_decay": "give weight_decay="}


def known() -> dict[str, type[torch.optim.Optimizer]]:
    """Optimizers of torch by the name in small letters."""
    found = {name.lower(): one for name, one in vars(torch.optim).items() if isinstance(one, type)}
    return {name: found[name] for name in sorted(found) if name not in {*_UNFIT, "optimizer"}}


def check(optimizer: str | Maker, options: Mapping[str, Any]) -> None:
    """Refuses names and options that there are not.

    Raises:
        TrainError: with the closest that there is.
    """
    if not isinstance(optimizer, str):
        if options:
            raise TrainError(
                f"optimizer_options={dict(options)!r} has no effect on a function; put them into it, as functools.partial does"
            )
        return
    if optimizer in _UNFIT:
        raise TrainError(f"optimizer {optimizer!r} {_UNFIT[optimizer]}; choose one of {', '.join(known())}")
    if optimizer not in known():
        raise TrainError(
            f"optimizer {optimizer!r} is not one of {', '.join(known())}{suggest(optimizer.lower(), known())}; or give a "
            "function that makes one from parameter groups and lr="
        )
    takes = [name for name in inspect.signature(known()[optimizer]).parameters if name not in _OURS]
    for name in options:
        if name in _OURS:
            raise TrainError(f"optimizer_options cannot have {name!r}: {_OURS[name]} instead")
        if name not in takes:
            raise TrainError(
                f"optimizer_options of {optimizer!r} have no {name!r}; it takes {', '.join(takes)}{suggest(name, takes)}"
            )
    if options:  # the first optimizer that a process makes costs it more than a second: torch imports its compiler
        make(optimizer, options, [{"params": [torch.zeros(2, 2, requires_grad=True)]}], 1e-3)


def make(
    optimizer: str | Maker, options: Mapping[str, Any], groups: list[dict[str, Any]], lr: float
) -> torch.optim.Optimizer:
    """A fresh optimizer over parameter groups.

    Raises:
        TrainError: the options do not fit each other, or the function gives something else.
    """
    try:
        if not isinstance(optimizer, str):
            made: Any = optimizer(groups, lr=lr)
        else:
            given: dict[str, Any] = {**_defaults(optimizer, options), **options}
            made = known()[optimizer](groups, lr=lr, **given)  # type: ignore[call-arg]
    except (TypeError, ValueError, RuntimeError, AttributeError) as error:
        named = repr(optimizer) if isinstance(optimizer, str) else getattr(optimizer, "__name__", "the function")
        raise TrainError(
            f"optimizer {named} cannot be made with optimizer_options={shown(dict(options))}: {error}"
        ) from error
    if not isinstance(made, torch.optim.Optimizer):
        raise TrainError(
            f"the function for optimizer= gives a {type(made).__name__}; it is called with parameter groups and lr= and gives an "
            "optimizer of torch, as functools.partial(torch.optim.SGD, momentum=0.8) does"
        )
    return made


def _defaults(name: str, options: Mapping[str, Any]) -> dict[str, Any]:
    if name == "sgd":
        # Not fused: that one (torch 2.13) fails where some parameters have momentum and one gets its first gradient.
        momentum = options.get("momentum", 0.9)
        return {"momentum": momentum, "nesterov": bool(momentum) and not options.get("dampening")}
    # Another implementation that is asked for excludes this one.
    return (
        {"fused": True} if name == "adamw" and not {"foreach", "capturable", "differentiable"} & options.keys() else {}
    )


def as_tensor(name: str, key: str, value: Any) -> Tensor:
    """A tensor, a number or a flag of an optimizer's state as a tensor, exactly.

    Raises:
        TrainError: it is something that no checkpoint holds.
    """
    if isinstance(value, Tensor):
        return value.detach().cpu().contiguous()
    kinds = {bool: torch.bool, int: torch.int64, float: torch.float64}
    if type(value) not in kinds:
        raise TrainError(
            f"the optimizer keeps a {type(value).__name__} as {key!r} for {name!r}; checkpoints hold tensors and numbers"
        )
    return torch.tensor(value, dtype=kinds[type(value)])


def moving(optimizer: torch.optim.Optimizer) -> list[dict[str, Any]]:
    """Numbers and flags of each parameter group but the rate: some optimizers count in them."""
    return [
        {name: value for name, value in group.items() if name not in _FIXED and isinstance(value, (bool, int, float))}
        for group in optimizer.param_groups
    ]
