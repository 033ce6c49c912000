"""Options of a compression, and what its steps share."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from nas.compressing.memory import Cache
from nas.compressing.stages import Stages
from nas.evaluate.base import Evaluator
from nas.hardware import Target
from nas.metrics import Metric
from nas.search import Algorithm

STORE = "compress.db"


@dataclass(frozen=True)
class Settings:
    """Options of a compression; see `nas.compress`.

    Attributes:
        warmup: epochs in which all networks of about the budgets' sizes are trained together.
        race: candidates of a budget, at most; fewer race where fewer fit.
        best: decides between tuned networks.
        fill: whether what the search leaves of a budget is filled.
        cache: batch and length of sequences whose key-value cache is counted.
        hidden: weight of the distance of layers from the original's.
        tune: "network" tunes one for each budget, "family" the networks of the search together.
        train_device: where networks are trained, and measured before they are.
        stored: whether the original's outputs are stored; None where they take little.
        stages: tell how far the compression is.
    """

    device: Target | None
    folder: Path
    epochs: int
    warmup: int
    race: int
    trials: int | None
    batches: int
    teacher: float
    hidden: float
    stored: bool | None
    tune: str
    train_device: str
    workers: int
    best: Metric
    order: str
    algorithm: Algorithm | None
    fill: bool
    cache: Cache | None
    training: Mapping[str, Any]
    stages: Stages

    @property
    def store(self) -> Path:
        """The database of all studies."""
        return self.folder / STORE

    def tuning(self, raced: int) -> int:
        """Epochs of the network that won a race of `raced`: what warm-up and the others' epochs leave of them all."""
        return self.epochs - self.warmup - (raced - 1)


def named(*what: object) -> str:
    """A short name of JSON-able settings: what is made with other ones has another place."""
    return hashlib.blake2b(json.dumps(what, sort_keys=True, default=str).encode(), digest_size=4).hexdigest()


def told(evaluators: Sequence[Evaluator], algorithm: Algorithm) -> list[Any]:
    """What a study measures and searches with, JSON-able."""
    return [*(one.describe() for one in evaluators), algorithm.describe()]
