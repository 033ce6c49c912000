"""The checkpoint of a training: safetensors and JSON, written so that a kill at any moment loses nothing.

PATH/state.json            the commit point: replaced atomically, names the folder that holds the weights
PATH/step-00000120/        supernet/ and optimizer.safetensors of an unfinished training, and kept.safetensors of its losses
PATH/best-00000120/        the best weights so far of an unfinished training that keeps them
PATH/supernet/             weights of a finished training
PATH/launch/               what the processes of a training on several are told: see nas.distributed
"""

from __future__ import annotations

import contextlib
import fcntl
import os
import shutil
import time
from collections.abc import Iterator, Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn

from nas import files, sealed
from nas.errors import CheckpointError, TrainError
from nas.sealed import Damaged
from nas.supernet import tensors
from nas.train.best import Best
from nas.train.optimizers import as_tensor, moving

if TYPE_CHECKING:
    from nas.space import Space
    from nas.supernet import Supernet

FORMAT = 1
STATE, SUPERNET, OPTIMIZER, LOG, EVENTS = "state.json", "supernet", "optimizer.safetensors", "log.csv", "events"
KEPT, LAUNCH, LOCK = "kept.safetensors", "launch", ".lock"
_NUMBER = ":number"


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
    touched: list[str] = field(default_factory=list)
    """Parameters that had a gradient and of which the optimizer keeps nothing (as SGD without momentum does)."""
    best: dict[str, Any] | None = None
    """Fields of `nas.train.best.Best`."""
    groups: list[dict[str, Any]] = field(default_factory=list)
    """Numbers in the parameter groups of an optimizer of a user's."""
    policy: dict[str, Any] = field(default_factory=dict)
    """Fields of `nas.train.learner.Memory`; {} without a policy."""
    hashes: dict[str, str] = field(default_factory=dict)
    """SHA-256 of the files beside the supernet by name, and of its weights; {} where an earlier version wrote none."""

    @property
    def folder(self) -> str:
        """Where the weights are, inside the training's folder."""
        return SUPERNET if self.finished else f"step-{self.step:08d}/{SUPERNET}"


def read(path: Path) -> State | None:
    """The committed state of the training in `path`; None if there is none.

    Raises:
        CheckpointError: the state is not readable, not what was written, or newer than this version.
    """
    file = path / STATE
    try:
        record, is_sealed = sealed.unseal(file.read_bytes())
        version = record.pop("format")
    except FileNotFoundError:
        return None
    except (OSError, ValueError, KeyError, AttributeError, TypeError) as error:
        said = error if isinstance(error, Damaged) else type(error).__name__
        raise CheckpointError(f"'{file}' is not the state of a training ({said}); delete it to start over") from error
    if version != FORMAT:
        raise CheckpointError(f"'{file}' has format {version} and this version reads {FORMAT}; upgrade supernas")
    try:
        state = State(**record)
    except TypeError as error:
        raise CheckpointError(f"'{file}' is not the state of a training; delete it to start over") from error
    if not is_sealed:
        sealed.warn(path)
    return state


def write(
    path: Path, state: State, supernet: Supernet, optimizer: torch.optim.Optimizer, kept: nn.Module | None = None
) -> None:
    """Commits weights, optimizer, what the losses keep and state together, then deletes what the last commit held.

    Raises:
        TrainError: they cannot be written; what was committed before is still there.
    """
    folder = path / state.folder
    named = _named(supernet, kept)
    state.touched = [name for name, one in named.items() if one.grad is not None and one not in optimizer.state]
    state.groups = moving(optimizer)
    try:
        if state.finished:
            state.hashes = {SUPERNET: supernet.save(folder)}
        else:
            shutil.rmtree(folder.parent, ignore_errors=True)  # of a training that was killed while it wrote
            state.hashes = _write_unfinished(folder.parent, supernet, optimizer, kept)
        files.write(path / STATE, sealed.seal({"format": FORMAT, **asdict(state)}), durable=True)
    except (OSError, CheckpointError) as error:
        if not state.finished:
            shutil.rmtree(folder.parent, ignore_errors=True)
        raise cannot_write(path, error) from error
    best = None if state.best is None or state.finished else path / Best(**state.best).folder
    for old in (*path.glob("step-*"), *path.glob("best-*")):
        if old not in (folder.parent, best):
            shutil.rmtree(old, ignore_errors=True)


def keep_best(path: Path, best: Best, supernet: Supernet) -> None:
    """Saves the weights as the best so far; those before stay until the next commit, which may never come.

    Raises:
        TrainError: they cannot be written.
    """
    folder = path / best.folder
    try:
        shutil.rmtree(folder, ignore_errors=True)  # of a training that was killed before it committed
        best.digest = supernet.save(folder)
    except (OSError, CheckpointError) as error:
        shutil.rmtree(folder, ignore_errors=True)
        raise cannot_write(path, error) from error


def load_best(path: Path, state: State, kind: type[Supernet], space: Space) -> Supernet:
    """The best weights so far, memory-mapped; of a finished training, or of one that keeps no best, those it has.

    Raises:
        CheckpointError: its files are missing, damaged, or others.
    """
    if state.best is None or state.finished:
        return load_supernet(path, state, kind, space)
    best = Best(**state.best)
    stored = kind.load(_inside(path, best.folder), space)
    if stored.source is None or stored.source[1] != best.digest:
        raise CheckpointError(
            f"'{path / best.folder}' does not hold the weights of step {best.step}; copy the whole folder again, or delete "
            f"'{path}' to train from the start"
        )
    return stored


def _write_unfinished(
    folder: Path, supernet: Supernet, optimizer: torch.optim.Optimizer, kept: nn.Module | None
) -> dict[str, str]:
    """What an unfinished training needs beside its state; the hashes."""
    folder.mkdir(parents=True)
    hashes = {SUPERNET: supernet.save(folder / SUPERNET)}
    content = {OPTIMIZER: optimizer_tensors(_named(supernet, kept), optimizer), KEPT: _tensors(kept)}
    for name, held in content.items():
        if held or name == OPTIMIZER:
            hashes[name] = tensors.save(folder / name, held)
            files.sync(folder / name)
    files.sync(folder)
    return hashes


def cannot_write(path: Path, error: Exception) -> TrainError:
    """That a training cannot go on, because its folder takes nothing any more."""
    said = files.why(error) if isinstance(error, OSError) else error
    return TrainError(f"the training in '{path}' cannot be kept: {said}; its last checkpoint is still there")


def load(
    path: Path,
    state: State,
    supernet: Supernet,
    optimizer: torch.optim.Optimizer | None,
    kept: nn.Module | None = None,
) -> None:
    """Puts the committed weights into `supernet`, in place, and the state of an unfinished training into `optimizer` and `kept`.

    Raises:
        CheckpointError: the files are missing, truncated or foreign, or of a supernet that cuts its parameters otherwise.
    """
    stored = load_supernet(path, state, type(supernet), supernet.space)
    weights = stored.state_dict()
    if lacking := sorted(supernet.state_dict().keys() - weights.keys()):
        raise CheckpointError(
            f"the checkpoint in '{path}' lacks {lacking[0]!r}, which is learnt or drawn at random and which earlier versions did "
            "not keep; delete it to train from the start"
        )
    if apart := supernet.cut_otherwise(stored):
        raise CheckpointError(
            f"'{path}' was trained with other cuts than the supernet has: {apart}; declare them in layouts=, or train anew"
        )
    with torch.no_grad():
        supernet.load_state_dict(weights)
    if optimizer is not None:
        parameters = _named(supernet, kept)
        restore_optimizer(parameters, optimizer, _read(path, state, OPTIMIZER))
        for group, numbers in zip(optimizer.param_groups, state.groups, strict=False):
            group.update(numbers)
        # Once a parameter was touched, its gradient is zero where no arch has it, and it decays; without one it would not.
        for parameter in {*optimizer.state, *(parameters[name] for name in state.touched)}:
            parameter.grad = torch.zeros_like(parameter)
        if own := _tensors(kept):
            stored_too = _read(path, state, KEPT)
            with torch.no_grad():
                for name, tensor in own.items():
                    tensor.copy_(stored_too[name])


def load_supernet(path: Path, state: State, kind: type[Supernet], space: Space) -> Supernet:
    """The supernet that was committed, memory-mapped.

    Raises:
        CheckpointError: its files are missing, damaged, or those of another step.
    """
    folder = path / state.folder
    stored = kind.load(_inside(path, state.folder), space)
    digest = state.hashes.get(SUPERNET)
    if digest is not None and (stored.source is None or stored.source[1] != digest):
        raise CheckpointError(
            f"'{folder}' does not hold the weights of step {state.step}; copy the whole folder again, or delete '{path}' to "
            "train from the start"
        )
    return stored


def _read(path: Path, state: State, name: str) -> dict[str, Tensor]:
    file = path / Path(state.folder).parent / name
    try:
        return tensors.load(_inside(path, str(file.relative_to(path))), state.hashes.get(name))
    except Damaged as error:
        raise CheckpointError(
            f"'{file}' is missing or damaged ({error}); delete '{path}' to train from the start"
        ) from error


def _inside(path: Path, name: str) -> Path:
    try:
        return sealed.inside(path, name)
    except Damaged as error:
        raise CheckpointError(f"'{path}' is no folder of a training: {error}; copy the whole folder again") from error


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
    for folder in (path / SUPERNET, path / EVENTS, path / LAUNCH, *path.glob("step-*"), *path.glob("best-*")):
        shutil.rmtree(folder, ignore_errors=True)


def optimizer_tensors(parameters: Mapping[str, nn.Parameter], optimizer: torch.optim.Optimizer) -> dict[str, Tensor]:
    """State of an optimizer by parameter name: "exp_avg/blocks.0.weight"; of a number, "step:number/blocks.0.weight".

    Raises:
        TrainError: it keeps what is neither.
    """
    return {
        f"{key}{'' if isinstance(value, Tensor) else _NUMBER}/{name}": as_tensor(name, key, value)
        for name, parameter in parameters.items()
        for key, value in optimizer.state.get(parameter, {}).items()
        if value is not None
    }


def restore_optimizer(
    parameters: Mapping[str, nn.Parameter], optimizer: torch.optim.Optimizer, tensors: Mapping[str, Tensor]
) -> None:
    """The inverse of `optimizer_tensors`."""
    on_device = bool(optimizer.defaults.get("fused") or optimizer.defaults.get("capturable"))
    for key_name, value in tensors.items():
        key, name = key_name.split("/", 1)
        parameter = parameters[name]
        if key.endswith(_NUMBER):
            optimizer.state[parameter][key.removesuffix(_NUMBER)] = value.item()
            continue
        # AdamW counts steps on the CPU unless it is fused on the device: keep such scalars where the optimizer wants them.
        device = parameter.device if value.ndim or on_device else value.device
        optimizer.state[parameter][key] = value.to(device)


@contextlib.contextmanager
def locked(path: Path, patience_s: float = 0.0) -> Iterator[None]:
    """Keeps a second process from training into the same folder; the kernel lets go when this process dies.

    Args:
        path: is made.
        patience_s: how long to wait for the other one.

    Raises:
        TrainError: the folder cannot be made or written, holds what no training wrote, or somebody trains into it.
    """
    _check_own(path)
    try:
        path.mkdir(parents=True, exist_ok=True)
        file = (path / LOCK).open("w")
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


def _check_own(path: Path) -> None:
    """Refuse to train over files of somebody's that are called as those of a training: no lock says that one was here."""
    if (path / LOCK).exists() or (path / STATE).exists():
        return
    there = [name for name in (SUPERNET, LOG, EVENTS) if os.path.lexists(path / name)]
    if there:
        raise TrainError(
            f"'{path}' holds {there[0]!r}, which no training wrote and one would write over; give another path, or move it away"
        )


def _took(file: Any) -> bool:
    try:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    return True
