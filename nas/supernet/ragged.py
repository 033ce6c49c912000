"""Batches of one sample, which normalisation layers cannot take: a channel of one value has no variance.

Data of 257 samples in batches of 256 end with one.  Wherever statistics of a batch are computed, the batches go through here.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from contextlib import contextmanager

from nas.errors import NasError
from nas.supernet.inputs import Inputs, batch_size, has_batch, joined


def folded(batches: Iterable[Inputs]) -> Iterator[Inputs]:
    """The batches, each of one sample with the one before; the first of all with the one after.

    Inputs without a batch, and those that cannot be joined because other axes differ, stay what they are.
    """
    before: Inputs | None = None
    held: Inputs | None = None
    for batch in batches:
        together = None
        if held is not None and _alone(held):
            together = joined(held, batch)
        if together is not None:
            held = together
            continue
        if before is not None:
            yield before
        before, held = held, batch
    if before is not None and held is not None and _alone(held):
        together = joined(before, held)
        if together is not None:
            before, held = together, None
    for one in (before, held):
        if one is not None:
            yield one


def _alone(inputs: Inputs) -> bool:
    return has_batch(inputs) and batch_size(inputs) == 1


@contextmanager
def enough(error: type[NasError], what: str) -> Iterator[None]:
    """Says in one sentence what torch says of a channel with one value.

    Args:
        error: what is raised.
        what: has one sample, and what to do: "the calibration", "give more".
    """
    try:
        yield
    except ValueError as reason:
        if "more than 1 value per channel" not in str(reason):
            raise
        raise error(
            f"{what}: a normalisation layer gets one value of each channel, which has no variance; give 2 samples or more"
        ) from reason
