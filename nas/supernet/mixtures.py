"""Decisions relaxed by a network that the model gives: all candidates of its choices, summed by their shares.

Where candidates are operations with parameters of their own, no mask of the largest arch is a subnet.  A model says how they are
summed with one method (`Mixable`); its mixture has the names of the supernet's parameters, and so its weights.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any, Protocol, runtime_checkable

from torch import Tensor, nn

from nas.errors import SupernetError
from nas.supernet.binding import Binding
from nas.supernet.calibration import own_statistics
from nas.supernet.inputs import Inputs, arguments
from nas.supernet.masks import Masks
from nas.supernet.relaxation import Relaxation, Shares, one_hot, tried
from nas.supernet.skeleton import build, parameters_on_meta, quiet

if TYPE_CHECKING:
    from nas.space import Arch
    from nas.supernet.supernet import Supernet

_KEPT = 16  # networks, one for each combination of what is not relaxed


@runtime_checkable
class Mixable(Protocol):
    """A module that has a mixture of all candidates of its choices.

    The contract, which is tried on random weights before anything is trained: `mixture()` is a module whose parameters and
    buffers have the names of the supernet's.  It is called as the model is, and with a keyword `shares`: the name of each active
    decision -> (options,) the shares of its candidates, in the order of the space.  Where one candidate of each has all, it
    computes what their arch does.  Decisions that it does not mix it may ignore, and be as the module was built.
    """

    def mixture(self) -> nn.Module:
        """The module of all candidates."""


class Mixtures(Relaxation):
    """Options as shares of the mixture that the model gives."""

    called = "the model's mixture"

    def __init__(self, supernet: Supernet, relaxed: Sequence[int] = (), unfit: Mapping[str, str] | None = None) -> None:
        super().__init__(supernet, relaxed, unfit)
        self._made: OrderedDict[str, Binding] = OrderedDict()

    def output(self, whole: Arch, inputs: Inputs, shares: Shares, *, learning: bool = False) -> Any:
        """As said there."""
        binding = self._binding(whole)
        weights = next(self.supernet.parameters())
        every = {**self.sharp_of(whole), **shares}
        names = self.supernet.space.names
        given = {names[p]: share.to(weights.device, weights.dtype) for p, share in every.items()}
        positional, keywords = arguments(inputs)
        with own_statistics(binding, dropping=learning):
            return binding.module(*positional, **keywords, shares=given)

    def sharp_of(self, arch: Arch) -> dict[int, Tensor]:
        """Decision -> all of the share for the option of `arch`, of every active one with candidates."""
        points = [decision.point for decision in self.supernet.space.decisions]
        return {
            p: one_hot(gene, len(points[p].canonical))
            for p, gene in enumerate(arch.genome)
            if gene is not None and points[p].range is None
        }

    def _binding(self, whole: Arch) -> Binding:
        """The mixture on the supernet's weights."""
        if whole.key not in self._made:
            with quiet(0), parameters_on_meta():
                model = build(self.supernet.space, whole)
                assert isinstance(model, Mixable)
                module = model.mixture()
            try:
                self._made[whole.key] = Binding(self.supernet._shared, module, self.supernet)
            except SupernetError as error:
                raise SupernetError(
                    f"the mixture of {type(model).__name__} has parameters that the supernet has not: {error}"
                ) from error
            if len(self._made) > _KEPT:
                self._made.popitem(last=False)
        binding = self._made[whole.key]
        binding.refresh()
        return binding


def relaxed(supernet: Supernet, inputs: Inputs, seed: int = 0) -> Relaxation:
    """The decisions of a supernet relaxed: by the model's own mixture where it is `Mixable`, else by masks.

    Args:
        supernet: is left as it is.
        inputs: of a few samples.
        seed: of what is tried.
    """
    own = isinstance(supernet.bind(supernet.space.largest).module, Mixable)
    return tried(Mixtures if own else Masks, supernet, inputs, seed)
