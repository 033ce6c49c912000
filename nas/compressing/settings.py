"""Options of a compression, and what its steps share."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from nas.hardware import Target
from nas.search import Algorithm

STORE = "compress.db"


@dataclass(frozen=True)
class Settings:
    """Options of a compression; see `nas.compress`.

    Attributes:
        warmup: epochs in which all networks of about the budgets' sizes are trained together.
        race: candidates of a budget.
        say: tells what was decided.
    """

    device: Target | None
    folder: Path
    epochs: int
    warmup: int
    race: int
    trials: int | None
    batches: int
    teacher: float
    workers: int
    best: str
    order: str
    algorithm: Algorithm | None
    training: Mapping[str, Any]
    say: Callable[[str], None]

    @property
    def store(self) -> Path:
        """The database of all studies."""
        return self.folder / STORE

    @property
    def goal(self) -> tuple[str, float]:
        """The metric that decides between tuned networks, and the sign with which it is minimised."""
        way, name = self.best.split()
        return name, 1.0 if way == "min" else -1.0

    @property
    def tuning(self) -> int:
        """Epochs of the network that won the race: what warm-up and race leave of them all."""
        return self.epochs - self.warmup - (self.race - 1)


def named(what: Sequence[str]) -> str:
    """A short name of some words."""
    return hashlib.blake2b("\0".join(what).encode(), digest_size=4).hexdigest()
