"""Memory that a subnet takes: its weights, and the keys and values that it keeps while it writes sequences."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, TypeAlias

from nas import reading
from nas.checking import Count, checked
from nas.compressing.cache import cache_bytes
from nas.errors import EvaluationError
from nas.evaluate.base import Cost, Evaluator
from nas.evaluate.subnets import Source, Weights
from nas.identity import inputs_described
from nas.supernet.skeleton import build_skeleton, parameters_of

if TYPE_CHECKING:
    from nas.space import Arch, Space

MIB = 2**20
CACHED = ("weights_mib", "cache_mib", "memory_mib")
Cache: TypeAlias = tuple[Count, Count]
"""Sequences that are written at once, and the positions of each."""


class Memory(Evaluator):
    """MiB of a subnet's parameters, each tie once, in the number type that they have; and of its key-value cache.

    >>> nas.Memory(supernet, batch=8, length=1024)(arch)  # doctest: +SKIP
    {'weights_mib': 18.8, 'cache_mib': 96.0, 'memory_mib': 114.8}

    The cache is what a decoder keeps of earlier positions while it writes: the keys and values of its attention, those of
    repeated heads and of layers that share them once, and no more positions than a window lets it see.  It is counted by
    running each subnet on one sequence, and a model of which it is not known for sure is refused.

    Args:
        source: a supernet, a training or a checkpoint's folder; gives the example input where the cache is counted.
        batch: sequences that are written at once; None counts weights alone.
        length: positions of each, its beginning included.

    Raises:
        EvaluationError: one of batch and length is given without the other.
    """

    weights: Weights
    cost: Cost = "cheap"
    metrics: tuple[str, ...] = ("weights_mib",)

    @checked(EvaluationError)
    def __init__(self, source: Source, *, batch: Count | None = None, length: Count | None = None) -> None:
        if (batch is None) != (length is None):
            raise EvaluationError(
                f"Memory has batch={batch} and length={length}; a key-value cache needs both, weights alone none"
            )
        self.weights, self.batch, self.length = Weights(source), batch, length
        if batch is not None:
            self.metrics = CACHED

    def __call__(self, arch: Arch) -> dict[str, float]:
        """One number; three with a cache.

        Raises:
            EvaluationError: what the subnet keeps of earlier positions is not known.
        """
        weights = weights_mib(self.weights.get(arch.space).space, arch)
        if self.batch is None or self.length is None:
            return {"weights_mib": weights}
        cache = self.batch * self._sequence(arch, self.length) / MIB
        return {"weights_mib": weights, "cache_mib": cache, "memory_mib": weights + cache}

    def _sequence(self, arch: Arch, length: int) -> int:
        """Bytes of one sequence's keys and values."""
        supernet = self.weights.get(arch.space)
        if supernet.example is None:
            raise EvaluationError(
                "a key-value cache is counted by running the model; give the supernet an example= of its inputs"
            )
        with reading.any_weights():
            module = supernet.extract(arch)
        return cache_bytes(module, supernet.example, length)

    def check(self, space: Space) -> None:
        """Whether the supernet is there, and what its largest arch keeps is known."""
        self.weights.check(space)
        if self.length is not None:
            self._sequence(space.largest, self.length)

    def describe(self) -> dict[str, Any]:
        """JSON-able name; with a cache, the sequences and the inputs that it is counted with."""
        if self.batch is None:
            return {"name": "Memory"}
        counted = inputs_described(self.weights.inputs)
        return {"name": "Memory", "batch": self.batch, "length": self.length, **counted}


def weights_mib(space: Space, arch: Arch) -> float:
    """MiB of an arch's parameters, without giving them values."""
    entries = parameters_of(build_skeleton(space, arch))
    return sum(one.tensor.numel() * one.tensor.element_size() for one in entries) / MIB
