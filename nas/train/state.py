"""The checkpoint of a training: safetensors and JSON, written so that a kill at any moment loses nothing.

PATH/state.json            the commit point: replaced atomically, names the folder that holds the weights
PATH/step-00000120/        supernet/ and optimizer.safetensors of an unfinished training, and kept.safetensors of its losses
PATH/supernet/             weights of a finished training
PATH/launch/               what the processes of a training on several are told: see nas.distributed
"""

from __future__ import annotations

import contextlib
import fcntl
import json
import os
import shutil
import time
from collections.abc import Iterator, Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from nas.errors import CheckpointError, TrainError

if TYPE_CHECKING:
    from nas.supernet import Supernet

FORMAT = 1
STATE, SUPERNET, OPTIMIZER, LOG, EVENTS = "state.json", "supernet", "optimizer.safetensors", "log.csv", "events"
KEPT, LAUNCH = "kept.safetensors", "launch"


@dataclass
class State:
    """Everything about a training but its tensors."""

    config: dict[str, Any]
    step: int = 0
    """Steps that are done; epoch, place in it and learning rate follow from it."""
    finished: bool = False
    history: list[dict[str, float]] = field(default_factory=list)
    recent: list[float] = field(default_factory=list)
    """Losses since the last row of the history."""
    health: dict[str, Any] = field(default_factory=dict)
    """Fields of `nas.train.health.Health`."""
    seconds: float = 0.0
    rng: dict[str, Any] = field(default_factory=dict)
    scaler: dict[str, Any] | None = None

    @property
    def folder(self) -> str:
        """Where the weights are, inside the training's folder."""
        return SUPERNET if self.finished else f"step-{self.step:08d}/{SUPERNET}"


def read(path: Path) -> State | None:
    """The committed state of the training in `path`; None if there is none.

    Raises:
        CheckpointError: the state is not readable, or newer than this version.
    """
    file = path / STATE
    try:
        record = json.loads(file.read_text())
        version = record.pop("format")
    except FileNotFoundError:
        return None
    except (OSError, ValueError, KeyError, AttributeError) as error:
        raise CheckpointError(
            f"'{file}' is not the state of a training ({type(error).__name__}); delete it to start over"
        ) from error
    if version != FORMAT:
        raise CheckpointError(f"'{file}' has format {version} and this version reads {FORMAT}; upgrade supernas")
    try:
        return State(**record)
    except TypeError as error:
        raise CheckpointError(f"'{file}' is not the state of a training; delete it to start over") from error


def write(
    path: Path, state: State, supernet: Supernet, optimizer: torch.optim.Optimizer, kept: nn.Module | None = None
) -> None:
    """Commits weights, optimizer, what the losses keep and state together, then deletes what the last commit held."""
    folder = path / state.folder
    if state.finished:
        supernet.save(folder)
    else:
        shutil.rmtree(folder.parent, ignore_errors=True)  # of a training that was killed while it wrote
        folder.parent.mkdir(parents=True)
        supernet.save(folder)
        save_file(optimizer_tensors(_named(supernet, kept), optimizer), folder.parent / OPTIMIZER)
        _sync(folder.parent / OPTIMIZER)
        if tensors := _tensors(kept):
            save_file({name: one.detach().cpu().contiguous() for name, one in tensors.items()}, folder.parent / KEPT)
            _sync(folder.parent / KEPT)
        _sync(folder.parent)
    partial = path / f"{STATE}.partial"
    partial.write_text(json.dumps({"format": FORMAT, **asdict(state)}))
    _sync(partial)
    os.replace(partial, path / STATE)
    _sync(path)
    for old in path.glob("step-*"):
        if old != folder.parent:
            shutil.rmtree(old, ignore_errors=True)


def load(
    path: Path,
    state: State,
    supernet: Supernet,
    optimizer: torch.optim.Optimizer | None,
    kept: nn.Module | None = None,
) -> None:
    """Puts the committed weights into `supernet`, in place, and the state of an unfinished training into `optimizer` and `kept`.

    Raises:
        CheckpointError: the files are missing, truncated or foreign.
    """
    folder = path / state.folder
    stored = type(supernet).load(folder, supernet.space)
    weights = stored.state_dict()
    if lacking := sorted(supernet.state_dict().keys() - weights.keys()):
        raise CheckpointError(
            f"the checkpoint in '{path}' lacks {lacking[0]!r}, which is learnt or drawn at random and which earlier versions did "
            "not keep; delete it to train from the start"
        )
    with torch.no_grad():
        supernet.load_state_dict(weights)
    if optimizer is not None:
        restore_optimizer(_named(supernet, kept), optimizer, _read(path, folder.parent / OPTIMIZER))
        if tensors := _tensors(kept):
            stored_too = _read(path, folder.parent / KEPT)
            with torch.no_grad():
                for name, tensor in tensors.items():
                    tensor.copy_(stored_too[name])


def _read(path: Path, file: Path) -> dict[str, Tensor]:
    try:
        return dict(load_file(file))
    except (OSError, SafetensorError) as error:
        raise CheckpointError(f"'{file}' is missing or damaged; delete '{path}' to train from the start") from error


def _named(supernet: nn.Module, kept: nn.Module | None) -> dict[str, nn.Parameter]:
    """All parameters by name; those of the losses with a name that no supernet's has."""
    more = kept.named_parameters() if kept is not None else ()
    return dict(supernet.named_parameters()) | {f"loss:{name}": parameter for name, parameter in more}


def _tensors(kept: nn.Module | None) -> dict[str, Tensor]:
    """Parameters and buffers, those that are tied once."""
    return {} if kept is None else {**dict(kept.named_parameters()), **dict(kept.named_buffers())}


def clear(path: Path) -> None:
    """Deletes what a training wrote into `path`, and nothing else."""
    (path / STATE).unlink(missing_ok=True)
    (path / LOG).unlink(missing_ok=True)
    for folder in (path / SUPERNET, path / EVENTS, path / LAUNCH, *path.glob("step-*")):
        shutil.rmtree(folder, ignore_errors=True)


def optimizer_tensors(parameters: Mapping[str, nn.Parameter], optimizer: torch.optim.Optimizer) -> dict[str, Tensor]:
    """State of an optimizer by parameter name: "exp_avg/blocks.0.weight"."""
    return {
        f"{key}/{name}": value.detach().cpu().contiguous()
        for name, parameter in parameters.items()
        for key, value in optimizer.state.get(parameter, {}).items()
        if isinstance(value, Tensor)
    }


def restore_optimizer(
    parameters: Mapping[str, nn.Parameter], optimizer: torch.optim.Optimizer, tensors: Mapping[str, Tensor]
) -> None:
    """The inverse of `optimizer_tensors`; only tensors are state, as in AdamW and SGD."""
    for key_name, value in tensors.items():
        key, name = key_name.split("/", 1)
        parameter = parameters[name]
        # AdamW counts steps on the CPU unless it is fused on the device: keep such scalars where the optimizer wants them.
        device = parameter.device if value.ndim or optimizer.defaults.get("fused") else value.device
        optimizer.state[parameter][key] = value.to(device)


@contextlib.contextmanager
def locked(path: Path, patience_s: float = 0.0) -> Iterator[None]:
    """Keeps a second process from training into the same folder; the kernel lets go when this process dies.

    Args:
        path: is made.
        patience_s: how long to wait for the other one.

    Raises:
        TrainError: the folder cannot be made or written, or somebody trains into it.
    """
    try:
        path.mkdir(parents=True, exist_ok=True)
        file = (path / ".lock").open("w")
    except OSError as error:
        raise TrainError(
            f"'{path}' is no folder that can be written ({error.strerror}); choose another path"
        ) from error
    with file:
        deadline = time.monotonic() + patience_s
        while not _took(file):
            if time.monotonic() >= deadline:
                raise TrainError(f"another process is training into '{path}'; wait for it or choose another path")
            time.sleep(0.1)
        yield


def _took(file: Any) -> bool:
    try:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    return True


def _sync(path: Path) -> None:
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
