"""An elastic model on disk: a supernet's checkpoint, the statistics of its points, and a front as JSON.  Nothing in it is code.

    DIR/supernet/               what `Supernet.save` writes
    DIR/statistics.safetensors  BatchNorm statistics of each point, as "<point>/<name>"; only where there are any
    DIR/elastic.json            the objective, the points with their measurements, and hashes of the other files

`elastic.json` comes last: a folder without it is no elastic model.
"""

from __future__ import annotations

import hashlib
import json
import os
import shutil
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor

from nas.errors import DeployError, MetricError, SpaceError
from nas.metrics import Metric
from nas.space import Arch, Space
from nas.supernet import Supernet

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


def write(path: Path, saved: Saved, check: Callable[[], None]) -> None:
    """Make the folder `path`; with `check`, which reads it again, failing, or anything else, nothing of it stays.

    Raises:
        DeployError: it is there already and not empty, or cannot be written.
        CheckpointError: as `Supernet.save`.
    """
    if path.exists() and (not path.is_dir() or any(path.iterdir())):
        raise DeployError(f"{str(path)!r} exists already; give a folder that is empty or not there")
    try:
        path.mkdir(parents=True, exist_ok=True)
        _fill(path, saved)
        check()
    except BaseException as error:
        shutil.rmtree(path, ignore_errors=True)
        if isinstance(error, OSError):
            raise DeployError(f"{str(path)!r} cannot be written: {error.strerror or error}") from error
        raise


def _fill(path: Path, saved: Saved) -> None:
    index: dict[str, Any] = {
        "format": FORMAT,
        "version": VERSION,
        "supernet": saved.supernet.save(path / WEIGHTS),
        "statistics": None,
        "objective": {"name": saved.objective.name, "goal": saved.objective.goal, "unit": saved.objective.unit},
        "points": [{"arch": arch.to_json(), "measurements": measurements} for arch, measurements in saved.points],
    }
    tensors = {
        f"{place}/{name}": tensor.detach().cpu().contiguous().clone()  # points may share what is the same for all
        for place, each in enumerate(saved.statistics)
        for name, tensor in each.items()
    }
    if tensors:
        save_file(tensors, path / STATISTICS)
        (path / STATISTICS).chmod(0o644)  # the library writes for the owner alone
        index["statistics"] = _digest(path / STATISTICS)
    half = path / f".{INDEX}"
    half.write_text(json.dumps(index, indent=1) + "\n", encoding="utf-8")
    os.replace(half, path / INDEX)


def read(path: Path, space: Space) -> Saved:
    """What the folder `path` holds.

    Raises:
        DeployError: it is not there, foreign, newer, or not what was saved.
        CheckpointError: so is its supernet, or that is of another space.
    """
    index = _index(path)
    supernet = Supernet.load(path / WEIGHTS, space)
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
        index = json.loads((path / INDEX).read_text(encoding="utf-8"))
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
    return index


def _statistics(path: Path, digest: str | None, points: int) -> list[Statistics]:
    if digest is None:
        return [{} for _ in range(points)]
    file = path / STATISTICS
    try:
        if _digest(file) != digest:
            raise DeployError(f"{str(file)!r} is not what was saved (its hash differs); copy the whole folder again")
        tensors = load_file(file)
    except (OSError, SafetensorError) as error:
        raise DeployError(f"{str(file)!r} cannot be read: {error}; copy the whole folder again") from error
    return [_part(tensors, f"{place}/") for place in range(points)]


def _part(tensors: Mapping[str, Tensor], before: str) -> dict[str, Tensor]:
    return {name.removeprefix(before): tensor for name, tensor in tensors.items() if name.startswith(before)}


def _digest(file: Path) -> str:
    with file.open("rb") as stream:
        return hashlib.file_digest(stream, "sha256").hexdigest()
