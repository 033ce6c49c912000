"""`nas.fit_linear`: linear maps in the place of modules, fitted to what the modules give on data."""

from __future__ import annotations

from typing import Annotated

import torch

from nas.checking import Range, checked
from nas.errors import SupernetError
from nas.supernet import maps, parts
from nas.supernet.moments import Port, watched
from nas.supernet.scores import Batches, Data, Task
from nas.supernet.skeleton import build_skeleton
from nas.supernet.supernet import Supernet


@checked(SupernetError)
@torch.no_grad()
def fit_linear(
    supernet: Supernet,
    *,
    batches: Batches | None = None,
    task: Task | None = None,
    ridge: Annotated[float, Range(least=0.0)] = 1e-4,
) -> dict[str, float]:
    """Set every linear map that may take the place of a block, in place, to what the block does on data, by least squares.

    Inputs and outputs of all blocks come from one pass of the largest arch in eval mode.  What a block adds to its input is
    fitted by ridge regression, so that where data say nothing a map is the identity.  Maps that were trained are overwritten.

    Args:
        supernet: of a space made with `linear=True`.
        batches: inputs of the model; padded tokens count like others.
        task: in place of batches: its calibration inputs.
        ridge: what is added to the variances of the inputs, as a share of their mean.

    Returns:
        For each block the mean squared error of the map, relative to the variance of what the block gives: 0 is a map that does
        all that the block does, 1 one that does nothing.

    Raises:
        SupernetError: no block may be a map; or data do not fit, or give numbers that are not finite.
    """
    mapped: dict[str, int] = {}
    for arch in supernet.space.representatives():
        mapped |= parts.mapped_in(build_skeleton(supernet.space, arch))
    if not mapped:
        raise SupernetError(
            f"no linear map may take the place of a block of space {supernet.space.name!r}; make it with nas.elastic(…, "
            "linear=True)"
        )
    state = {name: tensor.detach() for name, tensor in supernet._shared.state().items()}
    ports = {
        name: Port(-1 - places, len(state[maps.tensors(name)[1]]), outputs=True) for name, places in mapped.items()
    }
    errors = {}
    every = watched(supernet, ports, Data(batches=batches, task=task))
    for name, sums in every.items():
        if sums.count <= ports[name].size:
            raise SupernetError(
                f"{sums.count} rows are too few to fit a map of the {ports[name].size} features of {name!r}; give more batches: "
                "several times as many rows (samples times positions)"
            )
    for name, sums in every.items():
        weight, bias = (state[one] for one in maps.tensors(name))
        found, shift, errors[name] = sums.line(ridge)
        weight.copy_(found.reshape(weight.shape))
        bias.copy_(shift)
    return errors
