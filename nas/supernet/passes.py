"""One pass of the largest arch over calibration batches: a forward, or a forward and a backward each.

It runs on the supernet's own storage, in eval mode: no weight is copied, nothing of the supernet is changed.  A parameter's
gradient is reduced to sums of its units and dropped as soon as it exists.
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor, nn

from nas.errors import NasError, SupernetError
from nas.supernet import ranking
from nas.supernet.binding import hang
from nas.supernet.inputs import Inputs, call
from nas.supernet.parts import Sizes
from nas.supernet.ranking import Moments, Place, Share, Tensors
from nas.supernet.skeleton import buffers_of, build_skeleton, parameters_of
from nas.supernet.skeleton import like as parameter_like
from nas.supernet.supernet import Supernet

Network = Callable[[Inputs], Any]
"""The largest arch: inputs in the form of the example to an output."""

Step = Callable[[Network], Tensor]
"""The loss of a network on one batch."""


@dataclass(frozen=True)
class Units:
    """Which numbers of which tensors belong to which units.

    Attributes:
        whole: number of units of each atom: of an elastic model, or one for each axis or run of blocks.
        owned: what counts of each parameter, by canonical name.
        axes: of tensors, by canonical name; there where units are along axes.
        sizes: length of every atom in `axes`.
        counted: the places of each atom that count, where units are along axes.
    """

    whole: Sizes
    owned: Mapping[str, Sequence[Share]]
    axes: Tensors = field(default_factory=dict)
    sizes: Sizes = field(default_factory=dict)
    counted: Mapping[str, Sequence[Place]] = field(default_factory=dict)


def units_of_modules(supernet: Supernet, runs: Mapping[str, Sequence[str]]) -> Units:
    """Units that are modules, with all of their parameters.

    Args:
        supernet: whose model has them.
        runs: names of the modules whose scores are compared, by a name for the run.
    """
    shared = supernet._shared
    owned: dict[str, list[Share]] = {}
    for run, modules in runs.items():
        for place, module in enumerate(modules):
            names = (name for alias, name in shared.union.ties.items() if alias.startswith(f"{module}."))
            for name in dict.fromkeys(names):
                tensor = shared.tensor(name)
                unit = torch.full((len(tensor) if tensor.dim() else 1,), place)
                owned.setdefault(name, []).append(Share(run, 0, unit))
    return Units({run: len(modules) for run, modules in runs.items()}, owned)


@dataclass(frozen=True)
class Largest:
    """The largest arch of a supernet, on the supernet's storage.

    Attributes:
        module: in eval mode.
        parameters: of the module, by canonical name: leaves of their own, without gradient.
        units: whose scores are asked.
        example: of the supernet.
    """

    module: nn.Module
    parameters: Mapping[str, nn.Parameter]
    units: Units
    example: Inputs | None = None

    @functools.cached_property
    def called(self) -> dict[int, str]:
        """Canonical names of the parameters by their `id`."""
        return {id(parameter): name for name, parameter in self.parameters.items()}

    def __call__(self, inputs: Inputs) -> Any:
        """The output."""
        return call(self.module, inputs)


@torch.no_grad()
def largest_of(supernet: Supernet, units: Units) -> Largest:
    """The largest arch of `supernet`, ready for a pass."""
    supernet.check_trained()
    shared = supernet._shared
    parameters: dict[str, nn.Parameter] = {}
    with torch.inference_mode(False):
        module = build_skeleton(supernet.space, supernet.space.largest)
        shapes = shared.union.shapes_of(module)
        for entry in parameters_of(module):
            part = shared.part(entry.names, entry.shape, shapes).detach()
            parameter = parameter_like(entry.tensor, part)
            parameter.requires_grad = False
            hang(parameter, entry.slots)
            parameters[shared.union.ties[entry.names[0]]] = parameter
        for layer in module.modules():
            if isinstance(layer, nn.RNNBase):  # keeps a list of its parameters
                layer._init_flat_weights()
        for name, (table, key) in buffers_of(module).items():
            table[key] = shared.buffer(name, table[key], shapes).clone()  # the model may write to them
    return Largest(module.eval(), parameters, units, supernet.example)


def backward(largest: Largest, of: Moments, steps: Iterable[Step]) -> Iterator[dict[str, Tensor]]:
    """For each step (k, units) sums over the numbers of each unit, by atom; those that no gradient came to are not there.

    Args:
        largest: whose parameters, frozen ones too, count as its units say.
        of: gives k sums, of pieces (n, m) of a weight and its gradient.
        steps: give the losses.

    Raises:
        SupernetError: there is no step; one fails; a loss is no finite number, or does not depend on a weight that counts; or a
            gradient is not finite.
    """
    owned, whole = largest.units.owned, largest.units.whole
    leaves = {
        name: parameter
        for name, parameter in largest.parameters.items()
        if name in owned and (parameter.is_floating_point() or parameter.is_complex())
    }
    sums: dict[str, Tensor] = {}

    def reduce(name: str, parameter: Tensor) -> None:
        gradient, parameter.grad = parameter.grad, None
        assert gradient is not None
        gradient = gradient if gradient.layout == torch.strided else gradient.to_dense()
        for share in owned[name]:
            found = ranking.moments(share, whole[share.atom], of, parameter.detach(), gradient)
            if not bool(found.isfinite().all()):
                raise SupernetError(f"the gradient of {name!r} is not finite on this batch; leave the batch out")
            ranking.add(sums, share.atom, found)

    with ExitStack() as stack:
        for name, leaf in leaves.items():
            leaf.requires_grad_(True)
            hook = leaf.register_post_accumulate_grad_hook(functools.partial(reduce, name))  # type: ignore[no-untyped-call]
            stack.callback(hook.remove)
            stack.callback(leaf.requires_grad_, False)
        for _ in each_backward(largest.module, largest, steps, lambda: list(leaves.values())):
            yield dict(sums)
            sums.clear()


def each_backward(
    module: nn.Module, network: Network, steps: Iterable[Step], leaves: Callable[[], list[Tensor]]
) -> Iterator[None]:
    """A forward and a backward for each step, whose gradients hooks reduce; nothing else gets a gradient.

    Args:
        module: that is called.
        network: what losses are given.
        steps: give the losses.
        leaves: what the gradient is asked of, after the forward.

    Raises:
        SupernetError: see `backward`.
    """
    number = -1
    for number, step in enumerate(steps):
        with _batch(number), torch.inference_mode(False), torch.enable_grad(), _without_cudnn(module):
            loss = _checked(step(network))
            _check_graph(loss)
            asked = leaves()
            if not asked:
                raise SupernetError("the loss depends on nothing that counts")
            loss.backward(inputs=asked)  # type: ignore[no-untyped-call]
        del loss
        yield
    if number < 0:
        raise SupernetError(NO_BATCH)


NO_BATCH = "importance on data got no batch; give at least one, and an iterable that is not used up"


def _checked(loss: Any) -> Tensor:
    if not isinstance(loss, Tensor) or loss.numel() != 1:
        what = f"a tensor of shape {tuple(loss.shape)}" if isinstance(loss, Tensor) else f"a {type(loss).__name__}"
        raise SupernetError(f"the loss is {what}; give a scalar tensor")
    if not loss.requires_grad:
        raise SupernetError(
            "the loss depends on no weight that counts; compute it from the network's output, without detach() or no_grad()"
        )
    if not bool(loss.isfinite()):
        raise SupernetError(f"the loss is {float(loss.detach())}; give batches and a loss with finite numbers")
    return loss.reshape(())


def _check_graph(loss: Tensor) -> None:
    """Reentrant checkpoints run a backward of their own, which knows nothing of the leaves that are asked."""
    seen, nodes = set(), [loss.grad_fn]
    while nodes:
        node = nodes.pop()
        if node is None or node in seen:
            continue
        if node.name() == "CheckpointFunctionBackward":
            raise SupernetError(
                "the model keeps no activations (torch.utils.checkpoint with use_reentrant=True), which hides gradients; "
                "switch that off, or use use_reentrant=False"
            )
        seen.add(node)
        nodes += [following for following, _ in node.next_functions]


@contextmanager
def _batch(number: int) -> Iterator[None]:
    """Says in one sentence which batch fails, and how."""
    try:
        yield
    except Exception as error:  # of any kind: the model, the loss and the batch are the user's
        told = next(iter(str(error).splitlines()), "")
        raise SupernetError(
            f"batch {number} of the calibration: {told}"
            if isinstance(error, NasError)
            else f"batch {number} of the calibration does not fit the model or the loss ({type(error).__name__}: {told}); "
            "give inputs in the form of the example"
        ) from error


@contextmanager
def _without_cudnn(module: nn.Module) -> Iterator[None]:
    """Recurrent layers of cuDNN have no backward in eval mode."""
    recurrent = any(isinstance(layer, nn.RNNBase) for layer in module.modules())
    with torch.backends.cudnn.flags(enabled=torch.backends.cudnn.enabled and not recurrent):
        yield


@torch.no_grad()
def forward(
    largest: Largest, batches: Iterable[Inputs], begin: Callable[[Inputs], None], found: Callable[[], bool]
) -> None:
    """Call `largest` with every batch.

    Args:
        largest: with hooks on its layers.
        batches: inputs.
        begin: is told each batch first.
        found: whether what the hooks found so far is finite.

    Raises:
        SupernetError: there is no batch, one does not fit, or what was found is not finite.
    """
    number = -1
    for number, batch in enumerate(batches):
        with _batch(number):
            begin(batch)
            largest(batch)
            if not found():
                raise SupernetError("activations of a layer are not finite; leave the batch out")
    if number < 0:
        raise SupernetError(NO_BATCH)
