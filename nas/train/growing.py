"""A training that goes on in a larger space: the supernet is grown, and everything else of the checkpoint is as it was."""

from __future__ import annotations

import contextlib
import copy
from pathlib import Path
from typing import TYPE_CHECKING, Any

from nas import reading
from nas.errors import TrainError
from nas.supernet import grow
from nas.train import rng, state
from nas.train.loop import Run, keep
from nas.train.ranks import Ranks

if TYPE_CHECKING:
    from torch import Tensor, nn

    from nas.space import Space
    from nas.supernet import Supernet
    from nas.train.trainer import Training


def continued(
    training: Training, found: state.State | None, larger: Space | Supernet, path: Path, options: dict[str, Any]
) -> Training:
    """The training that goes on in `path`; see `Training.grow`.

    Raises:
        TrainError: there is no unfinished checkpoint, `path` is taken, or the losses keep what the larger space changes.
        SupernetError: as `nas.grow`.
    """
    if training.path is None or found is None or found.finished:
        why = "has finished" if found is not None else "has no checkpoint"
        raise TrainError(
            f"a training that {why} cannot go on in a larger space; stop it on the way with run(until=...), or grow its supernet "
            "with nas.grow and begin another training"
        )
    if training.policy is not None:
        raise TrainError(
            "a training with a policy cannot go on in a larger space, whose decisions have other options than its logits; grow "
            "its supernet with nas.grow and begin another training"
        )
    if path.absolute() == training.path.absolute():
        raise TrainError(f"'{path}' is the folder of the training in the smaller space; give another one")
    with contextlib.ExitStack() as stack:
        stack.enter_context(state.locked(training.path))
        stack.enter_context(rng.forked(training.seed))
        stack.enter_context(reading.any_weights())
        run = Run(training, found, Ranks())
        supernet = grow(run.supernet, larger, optimizer=run.optimizer, **options)
        later = copy.copy(training)
        later.supernet, later.path = supernet, path
        if later.found() is None:
            _check_kept(later, run.modules)
            run.state.config, run.state.best = later.config, None
            stack.enter_context(state.locked(path))
            state.write(path, run.state, supernet, run.optimizer, run.modules)
    return later


def _check_kept(later: Training, modules: nn.Module) -> None:
    """Refuse losses that keep tensors of other sizes in the larger space, such as projections of features.

    Raises:
        TrainError: one does.
    """
    made = keep(later)
    sizes = [_sizes(module) for module in made.values()]
    ours = [_sizes(module) for module in modules.children()]
    for loss, one, other in zip(made, sizes, ours, strict=True):
        if one != other:
            raise TrainError(
                f"{type(loss).__name__} keeps tensors whose sizes follow from the space, which a training cannot take along to a "
                "larger one; begin another training with the supernet that nas.grow gives"
            )


def _sizes(module: nn.Module) -> dict[str, tuple[int, ...]]:
    tensors: dict[str, Tensor] = {**dict(module.named_parameters()), **dict(module.named_buffers())}
    return {name: tuple(tensor.shape) for name, tensor in tensors.items()}
