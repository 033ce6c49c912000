"""`nas.factorize`: factors of layers that approximate what the layers give on data."""

from __future__ import annotations

from typing import Any

import torch

from nas.checking import checked
from nas.errors import SupernetError
from nas.supernet import low_rank, parts
from nas.supernet.moments import Port, watched
from nas.supernet.scores import Batches, Data, Task
from nas.supernet.skeleton import build_skeleton
from nas.supernet.supernet import Supernet


@checked(SupernetError)
@torch.no_grad()
def factorize(supernet: Supernet, *, batches: Batches | None = None, task: Task | None = None) -> dict[str, float]:
    """Set the factors of every layer that may be two, in place, to the best approximation of the layer, whatever the rank.

    Without data it is that of the weights as they are now.  With data it is that of what the largest arch's layers give on
    them: inputs count as often as they occur (`nas.supernet.low_rank`).  Factors that were trained are overwritten.

    Args:
        supernet: of a space made with `rank=`.
        batches: inputs of the model; padded tokens count like others.
        task: in place of batches: its calibration inputs.

    Returns:
        For each layer the squared error of what its factors of the largest rank give, relative to what it gives itself
        without its bias; of its weights where there are no data.

    Raises:
        SupernetError: no layer may be two; or data do not fit, or give numbers that are not finite.
    """
    factored: dict[str, bool] = {}
    for arch in supernet.space.representatives():
        factored |= parts.factored_in(build_skeleton(supernet.space, arch))
    if not factored:
        raise SupernetError(
            f"no layer of space {supernet.space.name!r} may be two factors; make it with nas.elastic(…, rank=True)"
        )
    tensors = {name: tensor.detach() for name, tensor in supernet._shared.state().items()}
    moments = None
    if batches is not None or task is not None:
        largest = build_skeleton(supernet.space, supernet.space.largest)
        ports = {name: _port(largest.get_submodule(name), transposed) for name, transposed in factored.items()}
        found = watched(supernet, ports, Data(batches=batches, task=task))
        moments = {name: sums.moment.cpu() for name, sums in found.items()}
    return low_rank.fill(tensors, factored, moments)


def _port(layer: Any, transposed: bool) -> Port:
    """Where a layer's inputs have their features."""
    weight = layer.weight
    inputs = low_rank.matrix(weight, transposed=transposed).shape[1]
    places = weight.dim() - 2
    return Port(-1 - places, inputs, tuple(layer.stride) if places else ())
