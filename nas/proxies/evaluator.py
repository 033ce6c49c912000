"""Proxies as an evaluator: an arch is built with its initial weights, looked at with one batch, and scored."""

from __future__ import annotations

import math
import random
from collections.abc import Callable, Iterable, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import nn

from nas.checking import Count, checked
from nas.errors import EvaluationError, suggest
from nas.evaluate.base import Cost, Evaluator
from nas.proxies.diswot import diswot
from nas.proxies.gradients import fisher, grad_norm, grasp, snip, synflow
from nas.proxies.kernels import jacob_cov, naswot
from nas.proxies.probe import Probe
from nas.proxies.zen import zen
from nas.supernet import costs
from nas.supernet.inputs import axis_of, has_batch
from nas.supernet.ragged import enough
from nas.supernet.skeleton import build, build_skeleton, quiet
from nas.train.rows import part_of
from nas.train.task import Batch, Task

if TYPE_CHECKING:
    from nas.space import Arch, Space

PROXIES: dict[str, Callable[[Probe], float]] = {
    "grad_norm": grad_norm,
    "snip": snip,
    "grasp": grasp,
    "fisher": fisher,
    "synflow": synflow,
    "jacob_cov": jacob_cov,
    "naswot": naswot,
    "zen": zen,
    "diswot": diswot,
}
"""What is computed on a network with weights; `params` and `macs` need none."""
COUNTS = ("params", "macs")
COMPARING = ("fisher", "jacob_cov", "naswot", "zen", "diswot")
"""What looks at samples one by one, along the first axis."""
NAMES = (*COUNTS, *PROXIES)
UNDEFINED = -1e8
"""The score of a network that a proxy is not defined for (nothing connects input and output), as in published tables of proxies:
a finite number below all others, so that such an arch is stored and never preferred."""


class Proxies(Evaluator):
    """An evaluator that trains nothing: scores of each arch at initialisation, higher is meant to be better.

    Every arch is built by its own constructor with the random state of `seed`, so equal archs get equal weights in every
    process.  A score that is not finite becomes `UNDEFINED`.

    >>> study = nas.Study("cheap", space, ["max naswot", "min params"], Proxies(["naswot", "params"], digits()))  # doctest: +SKIP

    Args:
        names: of `NAMES`, in the order of the metrics.
        task: gives the batch (the first of its first epoch) and the loss.
        batch: how many samples of that batch are looked at; None takes all.
        seed: of the initial weights.
        draws: initial weights whose scores are averaged, the first those of `seed`; 3 make `diswot` repeatable.
        teacher: arch that `diswot` compares with; None is the largest of the space.
        device: where the networks run.

    Raises:
        EvaluationError: no or unknown names, one of them twice, a batch that the task does not have, or a teacher without diswot.
    """

    task: Task
    device: str
    cost: Cost = "cheap"

    @checked(EvaluationError)
    def __init__(
        self,
        names: Iterable[str],
        task: Task,
        *,
        batch: int | None = None,
        seed: int = 0,
        draws: Count = 1,
        teacher: Arch | None = None,
        device: str = "cpu",
    ) -> None:
        self.names = tuple([names] if isinstance(names, str) else names)
        for name in self.names:
            if name not in NAMES:
                raise EvaluationError(f"no proxy is named {name!r}; there are {', '.join(NAMES)}{suggest(name, NAMES)}")
        if not self.names or len(set(self.names)) < len(self.names):
            raise EvaluationError(f"proxies were named {list(self.names)}; name each once, and at least one")
        if teacher is not None and "diswot" not in self.names:
            raise EvaluationError(
                "a teacher was given, and only diswot has one; add it to the names or leave the teacher out"
            )
        comparing = [name for name in self.names if name in COMPARING]
        if comparing and axis_of(task.example) != 0:
            raise EvaluationError(
                f"{', '.join(comparing)} compare samples along the first axis, which is not the batch's of this task "
                f"(batch_axis={axis_of(task.example)!r}); leave them out"
            )
        self.task, self.batch, self.seed, self.teacher, self.device = task, batch, seed, teacher, device
        self.draws = draws
        self._data: Batch | None = None
        self._taught_by: tuple[str, list[nn.Module]] | None = None
        self.metrics = self.names
        self._samples()

    def __call__(self, arch: Arch) -> dict[str, float]:
        """The scores of `arch`; the same in every process.

        Raises:
            EvaluationError: a proxy cannot look at this kind of model or task.
        """
        found: dict[str, float] = {}
        probes: list[Probe] = []
        with quiet(), torch.random.fork_rng([self.device] if self.device.startswith("cuda") else []):
            for name in self.names:
                if name in COUNTS:
                    found[name] = self._count(name, arch)
                    continue
                probes = probes or self._probes(arch)
                with enough(EvaluationError, f"the batch of {name} is too small"):
                    value = sum(_score(name, probe) for probe in probes) / len(probes)
                found[name] = value if math.isfinite(value) else UNDEFINED
        return found

    def values(self, archs: Sequence[Arch]) -> NDArray[np.float64]:
        """(n, names) scores of `archs`, as `nas.search.RoBoT` asks for them."""
        rows = [list(self(arch).values()) for arch in archs]
        return np.array(rows, dtype=np.float64).reshape(len(archs), len(self.names))

    def check(self, space: Space) -> None:
        """Whether archs of `space` can be scored: scores its smallest.

        Raises:
            EvaluationError: they cannot, or the teacher is an arch of another space.
        """
        self(space.smallest)

    def describe(self) -> dict[str, Any]:
        """JSON-able name and options."""
        teacher = self.teacher.to_json() if self.teacher is not None else None
        options: dict[str, Any] = {
            "names": list(self.names),
            "batch": self.batch,
            "seed": self.seed,
            "teacher": teacher,
        }
        if self.draws > 1:
            options["draws"] = self.draws
        if {"zen", "diswot"} & set(
            self.names
        ):  # earlier versions took what was pooled where a model does not name its features
            options["features"] = "before pooling"
        return {"name": "Proxies", **options, "task": self.task.describe()}

    def __getstate__(self) -> dict[str, Any]:
        return {**vars(self), "_data": None, "_taught_by": None}

    # -- parts

    def _samples(self) -> Batch:
        """The batch, on the CPU, cut to size."""
        if self._data is None:
            whole = next(iter(self.task.train_batches(0)), None)
            has = 0 if whole is None else self.task.samples(whole)
            size = has if self.batch is None else self.batch
            if whole is not None and self.batch is None and not has_batch(self.task.example):
                self._data = whole.to("cpu")  # a graph
                return self._data
            if whole is None or isinstance(size, bool) or not isinstance(size, int) or not 1 < size <= has:
                raise EvaluationError(
                    f"batch={self.batch!r} does not fit the task's batches of {has} samples; give 2 to {has}"
                )
            self._data = part_of(whole.to("cpu"), slice(size), self.task.example)
        return self._data

    @property
    def _seeds(self) -> list[int]:
        return [self.seed + number for number in range(self.draws)]

    def _build(self, arch: Arch, seed: int) -> nn.Module:
        torch.manual_seed(seed)
        random.seed(seed)
        return build(arch.space, arch).to(self.device)

    def _probes(self, arch: Arch) -> list[Probe]:
        """The network with each of its initial weights."""
        batch = self._samples().to(self.device)
        teachers = self._teachers(arch) if "diswot" in self.names else [None] * self.draws
        return [
            Probe(self._build(arch, seed), batch, self.task, seed, teacher)
            for seed, teacher in zip(self._seeds, teachers, strict=True)
        ]

    def _teachers(self, arch: Arch) -> Sequence[nn.Module]:
        """The teacher of the space of `arch` with each of its initial weights, built once."""
        chosen = self.teacher or arch.space.largest
        if chosen.space.fingerprint != arch.space.fingerprint:
            raise EvaluationError(
                f"the teacher is an arch of space {chosen.space.name!r}, and archs are of {arch.space.name!r}; give one of that"
            )
        if self._taught_by is None or self._taught_by[0] != chosen.key:
            self._taught_by = (chosen.key, [self._build(chosen, seed) for seed in self._seeds])
        return self._taught_by[1]

    def _count(self, name: str, arch: Arch) -> int:
        skeleton = build_skeleton(arch.space, arch)
        if name == "params":
            return sum(parameter.numel() for parameter in skeleton.parameters())
        return costs.macs(skeleton, lambda: build(arch.space, arch), self.task.example)


def _score(name: str, probe: Probe) -> float:
    torch.manual_seed(probe.seed)  # of dropout
    return PROXIES[name](probe)
