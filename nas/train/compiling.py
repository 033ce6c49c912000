"""Subnets that train through torch's compiler."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

import torch

from nas.errors import TrainError, suggest
from nas.train.trunk import Nested

if TYPE_CHECKING:
    from nas.supernet import Binding
    from nas.train.trainer import Training

MOST = 64
"""Archs of a space that may be compiled, each of which costs seconds to minutes."""

# Shapes of inputs that one arch may have before torch runs it uncompiled; an epoch's last batch is one more.
_VARIANTS = 8


def backend_of(asked: bool | str) -> str | None:
    """The backend of `torch.compile`; None compiles nothing.

    Raises:
        TrainError: there is no such backend.
    """
    if isinstance(asked, bool):
        return "inductor" if asked else None
    known = torch.compiler.list_backends(exclude_tags=())
    if asked not in known:
        raise TrainError(f"compile={asked!r} is no backend of torch.compile{suggest(asked, known)}; True is 'inductor'")
    return asked


def check(training: Training) -> None:
    """Refuse what would be compiled for too long, or not at all.

    Raises:
        TrainError: the space has too many archs, a loss hooks layers, or the model's trunk is called without it.
    """
    given, space = f"compile={training.compile!r}", training.supernet.space
    if space.floats or space.size > MOST:
        raise TrainError(
            f"{given} compiles each arch by itself, which takes seconds to minutes, and the space has {space.shown_size}; leave "
            f"it out, or train a space of at most {MOST}"
        )
    taps = [name for loss in training.loss.within() for name in loss.taps]
    if taps:
        raise TrainError(
            f"{given} has no effect on layers whose outputs the loss reads ({', '.join(taps[:3])}); leave it out"
        )
    if isinstance(training.supernet.bind(space.largest).module, Nested):
        raise TrainError(f"{given} has no effect on a model whose archs share one forward of a trunk; leave it out")


class Compiler:
    """Compiles the archs that a training meets, while it runs.

    Args:
        backend: of `torch.compile`.
    """

    def __init__(self, backend: str) -> None:
        self._backend = backend
        self._bindings: list[Binding] = []

    def take(self, binding: Binding) -> None:
        """Have calls of `binding` in training go through the compiler from now on."""
        if binding.compiled is None:
            compiled: Any = torch.compile(binding.module, backend=self._backend)
            binding.compiled = compiled
            self._bindings.append(binding)

    @contextlib.contextmanager
    def running(self) -> Iterator[None]:
        """Inside, many archs of one class are compiled; afterwards none is.

        Raises:
            TrainError: torch cannot compile the model here.
        """
        # torch gives up after eight variants of one function, which all archs of a model class share.
        limits: dict[str, Any] = {"recompile_limit": MOST * _VARIANTS, "accumulated_recompile_limit": MOST * _VARIANTS}
        try:
            with torch._dynamo.config.patch(limits):
                yield
        except (torch._dynamo.exc.TorchDynamoException, torch._inductor.exc.InvalidCxxCompiler) as error:
            lines = [line.strip() for line in str(error).splitlines() if line.strip()]
            why = " ".join(lines[:2]) or type(error).__name__
            raise TrainError(f"torch.compile cannot compile this model here ({why}); leave compile= out") from error
        finally:
            for binding in self._bindings:
                binding.compiled = None
            self._bindings.clear()
