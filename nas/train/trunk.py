"""One forward of the trunk for all archs of a step that differ only in how much of it they use.

Prefixes of an embedding and exits of a deep model are archs like any other, but what the smaller ones compute is a part of what
the largest one computes.  A model says so with three names (`Nested`), and a training step of G granularities then costs
one trunk and G heads instead of G models.  Extraction, evaluation and search know nothing of it.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING, Any, Protocol, runtime_checkable

from torch import Tensor

from nas.supernet.inputs import Inputs, arguments
from nas.train.taps import has, tapped

if TYPE_CHECKING:
    from nas.space import Arch
    from nas.supernet import Supernet


@runtime_checkable
class Nested(Protocol):
    """A module whose trunk serves smaller versions of itself.

    The contract: `model(x)` is `model.read(model.trunk(x))`; and where two archs differ in `granularities` alone, the one
    with the smaller `extent` reads its own output from the features of the other's trunk.

    Attributes:
        granularities: names of the decisions that change how much of the trunk is used, and nothing else in it.
        extent: how far this arch's trunk goes, e.g. its depth.
    """

    granularities: Sequence[str]
    extent: int

    def trunk(self, *args: Any, **kwargs: Any) -> Any:
        """Features, from the model's inputs."""

    def read(self, features: Any) -> Any:
        """The model's output, from features of its own trunk or of one that goes further."""


def groups(supernet: Supernet, archs: Sequence[Arch]) -> list[list[Arch]]:
    """`archs` in order, those together that may share a trunk; each alone where the model is not `Nested`."""
    model: Any = supernet.bind(archs[0]).module if len(archs) > 1 else None
    if not isinstance(model, Nested):
        return [[arch] for arch in archs]
    nested = frozenset(model.granularities)
    found: list[list[Arch]] = []
    for arch in archs:
        home = next((group for group in found if all(_agree(arch, other, nested) for other in group)), None)
        if home is None:
            found.append([arch])
        else:
            home.append(arch)
    return found


def outputs(supernet: Supernet, group: Sequence[Arch], inputs: Inputs) -> Iterator[tuple[Arch, Any]]:
    """Each arch of a group and its output; their backward is one, of the sum of their losses."""
    return ((arch, output) for arch, output, _ in featured(supernet, group, inputs, ()))


def featured(
    supernet: Supernet, group: Sequence[Arch], inputs: Inputs, names: Sequence[str]
) -> Iterator[tuple[Arch, Any, dict[str, Tensor]]]:
    """As `outputs`, with the outputs of the layers `names` that an arch has; those of a shared trunk are everybody's."""
    if len(group) == 1:
        binding = supernet.bind(group[0])
        with tapped(binding.module, names) as own:
            output = binding(inputs)
        yield group[0], output, own
        return
    bindings = [supernet.bind(arch) for arch in group]
    modules: list[Any] = [binding.module for binding in bindings]
    positional, keywords = arguments(inputs)
    deepest = max(modules, key=lambda module: module.extent)
    with tapped(deepest, names) as shared, bindings[modules.index(deepest)].watched(inputs):
        features = deepest.trunk(*positional, **keywords)
    for arch, binding, module in zip(group, bindings, modules, strict=True):
        binding.refresh()  # buffers that the trunk changed
        with tapped(module, names) as own, binding.watched(inputs):
            output = module.read(features)
        yield arch, output, {name: value for name, value in shared.items() if has(module, name)} | own


def _agree(left: Arch, right: Arch, nested: frozenset[str]) -> bool:
    """Whether two archs are the same but for the nested decisions, and for what those switch off."""
    pairs = zip(left.space.names, left.genome, right.genome, strict=True)
    return all(ours == theirs or ours is None or theirs is None or name in nested for name, ours, theirs in pairs)
