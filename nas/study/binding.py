"""What a study gives to evaluators that were given no supernet and no data of their own."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from nas.errors import StudyError
from nas.evaluate.base import Evaluator, every

if TYPE_CHECKING:
    from nas.train import Training


def bound(evaluators: Sequence[Evaluator], training: Training | None, study: str) -> tuple[Evaluator, ...]:
    """The evaluators with the supernet and the data of the study's training, or else of the study's other evaluators.

    Raises:
        StudyError: an evaluator takes a network, and the others have different supernets.
    """
    task = (
        training.task if training is not None else next((o.task for o in every(evaluators) if o.task is not None), None)
    )
    sources = {id(one.weights.source): one.weights for one in every(evaluators) if _has_supernet(one)}
    source: Any = None
    if training is not None:
        from nas.evaluate.subnets import Weights

        source = Weights(training)
    elif len(sources) == 1:
        source = next(iter(sources.values()))
    if (
        len(sources) > 1
        and source is None
        and any(one.has_networks and one.weights is None for one in every(evaluators))
    ):
        raise StudyError(
            f"evaluators of study {study!r} read {len(sources)} supernets, and one that takes a network says not which; give "
            "Study(training=...), or @nas.evaluator(source=...)"
        )
    return tuple(one.bound(source, task) for one in evaluators)


def _has_supernet(one: Evaluator) -> bool:
    return hasattr(one.weights, "source")
