"""Measurements that decide something, kept in a folder: the same call decides the same after a kill, though a time is noisy."""

from __future__ import annotations

import json
from collections.abc import Callable, Collection, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from nas import files
from nas.compressing.settings import named
from nas.errors import StudyError
from nas.evaluate.base import Evaluator

if TYPE_CHECKING:
    from nas.space import Arch, Space


class Kept(Evaluator):
    """An evaluator whose measurements of an arch are read again where they were taken before.

    Args:
        evaluator: that measures.
        folder: for a file of each arch.
    """

    def __init__(self, evaluator: Evaluator, folder: Path) -> None:
        self.evaluator, self.folder = evaluator, folder / named(evaluator.describe())
        self.metrics, self.exclusive, self.cost = evaluator.metrics, evaluator.exclusive, evaluator.cost

    def __call__(self, arch: Arch) -> dict[str, float]:
        """As the evaluator gave them first."""
        return kept(self.folder / f"{arch.key}.json", lambda: self.evaluator(arch))

    def check(self, space: Space) -> None:
        """As the evaluator does."""
        self.evaluator.check(space)

    def describe(self) -> dict[str, Any]:
        """As the evaluator does."""
        return dict(self.evaluator.describe() or {})


def kept(path: Path, measure: Callable[[], Mapping[str, float]], names: Collection[str] = ()) -> dict[str, float]:
    """Numbers by name that a file has, or that are measured now and written to it.

    Args:
        path: of a JSON file; one that is damaged is written again.
        measure: gives them.
        names: without which a file is damaged.

    Raises:
        StudyError: the file cannot be written.
    """
    try:
        found = {str(name): float(value) for name, value in json.loads(path.read_text(encoding="utf-8")).items()}
        if found.keys() >= set(names):
            return found
    except (FileNotFoundError, NotADirectoryError, ValueError, AttributeError, TypeError):  # or a damaged one
        pass
    found = dict(measure())
    with files.explained(path, StudyError):
        path.parent.mkdir(parents=True, exist_ok=True)
        files.write(path, json.dumps(found))
    return found
