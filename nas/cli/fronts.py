"""`nas export STUDY` without a trial: the whole front on one set of weights."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from nas.errors import DeployError, JobError
from nas.evaluate.base import every

if TYPE_CHECKING:
    from nas.study import Study


def write_elastic(study: Study, output: Path, where: str | None = None, *, force: bool = False) -> str:
    """Write the front as an `ElasticModel`'s folder, after checking each point as `nas extract` does; what was done.

    Raises:
        StudyError: a point is not what was evaluated.
        DeployError: the front is empty, or the folder is there and not empty.
        JobError: no evaluator holds a supernet.
    """
    from nas.deploy import ElasticModel
    from nas.deploy.folder import check_target
    from nas.study.take_home import outputs_differ, take_home

    check_target(output, force=force)
    front = study.front(where)
    if not len(front):
        raise DeployError(f"the front of study {study.name!r} has no points; run the study first, or relax its filter")
    source = next((each for each in every(study.evaluators) if each.has_networks and each.weights is not None), None)
    if source is None:
        raise JobError(f"no evaluator of study {study.name!r} holds a supernet; write its front from your own program")
    model = ElasticModel(
        source.weights.get(study.space),
        front,
        objective=study.objectives[0],
        calibration=None if source.task is None else source.task.calibration_inputs(),
    )
    for number in front.index:
        winner = take_home(study, int(number))
        if outputs_differ(winner.module, model.extract(winner.arch), winner.example) is not None:
            raise DeployError(f"trial {number} computes something else on the whole front; this is a defect, report it")
    model.save(output, force=force)
    return f"wrote {output} (elastic): {len(model.points)} points, each computes what was evaluated and when read again"
