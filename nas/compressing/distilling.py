"""Local distillation: each alternative of a block alone learns to give the block's output from the block's input.

Bercovich et al. 2024, "Puzzle: Distillation-Based NAS for Inference-Optimized LLMs": the loss is the mean squared error relative
to the mean square of what the block gives.  One pass of the parent, which ends behind the block, serves all alternatives.
"""

from __future__ import annotations

import copy
import math
from collections.abc import Iterable, Iterator, Sequence
from itertools import islice
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm

from nas.errors import EvaluationError, TrainError, brief
from nas.supernet.inputs import Inputs, call
from nas.supernet.moments import first_tensor
from nas.train import Task
from nas.train.task import to_device
from nas.train.validate import device_of


class Block:
    """A block of a network in eval mode, and what goes in and comes out for a batch.

    Args:
        parent: the network.
        name: of the block in it.
    """

    def __init__(self, parent: nn.Module, name: str) -> None:
        self.parent, self.name = parent.eval(), name
        self.device = device_of(parent)

    @torch.no_grad()
    def __call__(self, inputs: Inputs) -> tuple[tuple[Any, ...], dict[str, Any], Tensor]:
        """Positional and keyword arguments of the block, and the first tensor that it gives.

        Raises:
            EvaluationError: the network does not take the batch, or the block is not called or gives no finite number.
        """
        seen: list[Any] = []
        block = self.parent.get_submodule(self.name)

        def before(_module: nn.Module, args: tuple[Any, ...], keywords: dict[str, Any]) -> None:
            seen.extend((_fresh(args), _fresh(keywords)))

        def after(_module: nn.Module, _args: Any, output: Any) -> None:
            seen.append(_first(output))
            raise _Reached

        handles = [block.register_forward_pre_hook(before, with_kwargs=True), block.register_forward_hook(after)]
        try:
            call(self.parent, to_device(inputs, self.device))
        except _Reached:
            pass
        except Exception as error:
            raise EvaluationError(
                f"{type(self.parent).__name__} does not take a batch of the task ({type(error).__name__}: {brief(error, 200)})"
            ) from error
        finally:
            for handle in handles:
                handle.remove()
        if len(seen) != 3:
            raise EvaluationError(f"block {self.name!r} is not called for a batch of the task; leave it out")
        args, keywords, wanted = seen
        if not bool(wanted.isfinite().all()):
            raise EvaluationError(f"block {self.name!r} gives numbers that are not finite for a batch of the task")
        return args, keywords, wanted


class _Reached(Exception):
    """The block has given its output: nothing behind it is needed."""


def _first(output: Any) -> Tensor:
    return first_tensor(output if isinstance(output, tuple | list) else (output,))


def _fresh(value: Any) -> Any:
    """What a call may change (a cache that grows) copied, tensors as they are."""
    if isinstance(value, Tensor):
        return value.detach()
    if type(value) in (tuple, list):
        return type(value)(_fresh(one) for one in value)
    if type(value) is dict:
        return {name: _fresh(one) for name, one in value.items()}
    return value if isinstance(value, bool | int | float | str | None) else copy.deepcopy(value)


def error(module: nn.Module, given: tuple[tuple[Any, ...], dict[str, Any], Tensor]) -> Tensor:
    """Mean squared error of what a module gives, relative to the mean square of what it should.

    Raises:
        EvaluationError: it gives another shape.
    """
    args, keywords, wanted = given
    found = _first(module(*_fresh(args), **_fresh(keywords)))
    if found.shape != wanted.shape:
        raise EvaluationError(
            f"an alternative gives {tuple(found.shape)} where its block gives {tuple(wanted.shape)}; only what is "
            "inside of a block may differ"
        )
    return (found - wanted).square().mean() / wanted.square().mean().clamp(min=torch.finfo(wanted.dtype).tiny)


def endless(task: Task) -> Iterator[Inputs]:
    """Inputs of a task's training batches, epoch after epoch.

    Raises:
        EvaluationError: there is none.
    """
    epoch = 0
    while True:
        empty = True
        for batch in task.train_batches(epoch):
            empty = False
            yield batch.inputs
        if empty:
            raise EvaluationError(f"{type(task).__name__} has no training batch to learn from; give it training data")
        epoch += 1


@torch.enable_grad()
def learn(block: Block, alternatives: Sequence[nn.Module], batches: Iterable[Inputs], steps: int, lr: float) -> None:
    """Train alternatives of a block, in place, each with an Adam of its own whose step falls to 0 as a cosine does.

    Dropout is off, and batch norms use the statistics of the batch.

    Raises:
        TrainError: one diverged.
    """
    optimizers = []
    for module in alternatives:
        module.eval()
        for layer in module.modules():
            if isinstance(layer, _BatchNorm):
                layer.train()
        optimizers.append(torch.optim.Adam([one for one in module.parameters() if one.requires_grad], lr=lr))
    for step, inputs in enumerate(islice(batches, steps)):
        given = block(inputs)
        for module, optimizer in zip(alternatives, optimizers, strict=True):
            for group in optimizer.param_groups:
                group["lr"] = lr * (1 + math.cos(math.pi * step / steps)) / 2
            loss = error(module, given)
            if not bool(loss.isfinite()):
                raise TrainError(f"an alternative of block {block.name!r} diverged at step {step}; give a lower lr=")
            optimizer.zero_grad()
            loss.backward()  # type: ignore[no-untyped-call]
            optimizer.step()
    for module in alternatives:
        module.eval()


@torch.no_grad()
def errors(block: Block, alternatives: Sequence[nn.Module], batches: Iterable[Inputs]) -> list[float]:
    """Mean over batches of the error of each alternative, in eval mode.

    Raises:
        EvaluationError: there is no batch.
    """
    totals, count = [0.0] * len(alternatives), 0
    for inputs in batches:
        given = block(inputs)
        totals = [
            total + float(error(module.eval(), given)) for total, module in zip(totals, alternatives, strict=True)
        ]
        count += 1
    if not count:
        raise EvaluationError("the task has no calibration inputs to measure blocks on; give calibration=")
    return [total / count for total in totals]
