"""An elastic model on disk: a supernet's checkpoint, the statistics of its points, and a front as JSON.  Nothing in it is code.

    DIR/supernet/               what `Supernet.save` writes
    DIR/statistics.safetensors  BatchNorm statistics of each point, as "<point>/<name>"; only where there are any
    DIR/elastic.json            the objective, the points with their measurements, and hashes of the other files

`elastic.json` comes last: a folder without it is no elastic model.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from torch import Tensor

from nas import files, sealed
from nas.errors import CheckpointError, DeployError, MetricError, SpaceError
from nas.metrics import Metric
from nas.sealed import Damaged
from nas.space import Arch, Space
from nas.supernet import Supernet, checkpoint
from nas.supernet.tensors import load as load_tensors
from nas.supernet.tensors import save as save_tensors

FORMAT, VERSION = "supernas.elastic", 1
INDEX, WEIGHTS, STATISTICS = "elastic.json", "supernet", "statistics.safetensors"

Statistics = Mapping[str, Tensor]
"""Name of a buffer -> its value."""


@dataclass(frozen=True)
class Saved:
    """What a folder holds."""

    supernet: Supernet
    objective: Metric
    points: list[tuple[Arch, dict[str, float]]]
    statistics: list[Statistics]
    """Of each point."""


def write(path: Path, saved: Saved, check: Callable[[Path], None], *, force: bool = False) -> None:
    """Make the folder `path`, which appears whole, after `check` has read it where it is written, or not at all.

    Raises:
        DeployError: it is there already and not empty, or cannot be written.
        CheckpointError: as `Supernet.save`.
    """
    check_target(path, force=force)
    with files.explained(path, DeployError):
        path.parent.mkdir(parents=True, exist_ok=True)
        with files.replacing(path, durable=True) as half:
            half.mkdir()
            digest = _fill(half, saved)
            check(half)
    saved.supernet._saved_as(path / WEIGHTS, digest)


def check_target(path: Path, *, force: bool = False) -> None:
    """Refuse a folder that `write` would write over.

    Raises:
        DeployError: it is there and not empty; with `force`, there is something in it besides a saved model.
    """
    files.check_folder(path, DeployError, listed, force=force)


def listed(path: Path) -> list[str] | None:
    """The files of a saved model by their names; None where there is none."""
    try:
        index = _index(path)
        weights = checkpoint.listed(path / WEIGHTS)
    except (DeployError, CheckpointError):
        return None
    return [INDEX, *([STATISTICS] if index["statistics"] else []), *(f"{WEIGHTS}/{name}" for name in weights)]


def _fill(path: Path, saved: Saved) -> str:
    """The hash of the weights."""
    digest = saved.supernet._write(path / WEIGHTS)
    index: dict[str, Any] = {
        "format": FORMAT,
        "version": VERSION,
        "supernet": digest,
        "statistics": None,
        "objective": {"name": saved.objective.name, "goal": saved.objective.goal, "unit": saved.objective.unit},
        "points": [{"arch": arch.to_json(), "measurements": measurements} for arch, measurements in saved.points],
    }
    tensors = {
        f"{place}/{name}": tensor.detach().clone()  # points may share what is the same for all
        for place, each in enumerate(saved.statistics)
        for name, tensor in each.items()
    }
    if tensors:
        index["statistics"] = save_tensors(path / STATISTICS, tensors)
    (path / INDEX).write_bytes(sealed.seal(index, indent=1))
    return digest


def read(path: Path, space: Space) -> Saved:
    """What the folder `path` holds.

    Raises:
        DeployError: it is not there, foreign, newer, or not what was saved.
        CheckpointError: so is its supernet, or that is of another space.
    """
    index = _index(path)
    supernet = Supernet.load(_inside(path, WEIGHTS), space)
    if supernet.source is None or supernet.source[1] != index["supernet"]:
        raise DeployError(f"{str(path / WEIGHTS)!r} holds other weights than were saved; copy the whole folder again")
    try:
        points = [(space.arch(each["arch"]["choices"]), dict(each["measurements"])) for each in index["points"]]
        objective = Metric(**index["objective"])
    except (KeyError, TypeError, SpaceError, MetricError) as error:
        raise DeployError(f"{str(path / INDEX)!r} cannot be read ({error}); copy the whole folder again") from error
    return Saved(supernet, objective, points, _statistics(path, index["statistics"], len(points)))


def _index(path: Path) -> dict[str, Any]:
    try:
        index, is_sealed = sealed.unseal((path / INDEX).read_bytes())
    except (FileNotFoundError, NotADirectoryError):
        what = f"is no elastic model: it has no {INDEX}" if path.exists() else "does not exist"
        raise DeployError(f"{str(path)!r} {what}; give the folder that ElasticModel.save wrote") from None
    except (OSError, ValueError) as error:
        raise DeployError(f"{str(path / INDEX)!r} cannot be read: {error}; copy the whole folder again") from error
    if not isinstance(index, dict) or index.get("format") != FORMAT:
        raise DeployError(f"{str(path / INDEX)!r} was not written by ElasticModel.save; give the folder that it wrote")
    if not isinstance(index.get("version"), int) or index["version"] > VERSION:
        raise DeployError(
            f"{str(path)!r} has format version {index.get('version')}, and this code reads up to {VERSION}; upgrade supernas"
        )
    missing = {"supernet", "statistics", "objective", "points"} - set(index)
    if missing:
        raise DeployError(f"{str(path / INDEX)!r} lacks {', '.join(sorted(missing))}; copy the whole folder again")
    if not is_sealed:
        sealed.warn(path)
    return index


def _statistics(path: Path, digest: str | None, points: int) -> list[Statistics]:
    if digest is None:
        return [{} for _ in range(points)]
    file = path / STATISTICS
    try:
        tensors = load_tensors(sealed.inside(path, STATISTICS), digest)
    except Damaged as error:
        raise DeployError(f"{str(file)!r} cannot be read: {error}; copy the whole folder again") from error
    return [_part(tensors, f"{place}/") for place in range(points)]


def _part(tensors: Mapping[str, Tensor], before: str) -> dict[str, Tensor]:
    return {name.removeprefix(before): tensor for name, tensor in tensors.items() if name.startswith(before)}


def _inside(path: Path, name: str) -> Path:
    try:
        return sealed.inside(path, name)
    except Damaged as error:
        raise DeployError(f"{str(path)!r} is no elastic model: {error}; copy the whole folder again") from error
