"""Measurements that decide something, kept in a folder: the same call decides the same after a kill, though a time is noisy."""

from __future__ import annotations

import json
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
        path = self.folder / f"{arch.key}.json"
        try:
            return {str(name): float(value) for name, value in json.loads(path.read_text(encoding="utf-8")).items()}
        except (FileNotFoundError, NotADirectoryError, ValueError, AttributeError, TypeError):  # or a damaged one
            found = dict(self.evaluator(arch))
        with files.explained(path, StudyError):
            path.parent.mkdir(parents=True, exist_ok=True)
            files.write(path, json.dumps(found))
        return found

    def check(self, space: Space) -> None:
        """As the evaluator does."""
        self.evaluator.check(space)

    def describe(self) -> dict[str, Any]:
        """As the evaluator does."""
        return dict(self.evaluator.describe() or {})
