"""The layers of a trial's network, as one line of JSON: `python -m nas.web.layers JOB STUDY TRIAL`, with NAS_STORE."""

from __future__ import annotations

import contextlib
import json
import os
import sys
from typing import Any

from nas.errors import NasError


def main() -> None:
    """Print them, or `detail` with what is wrong."""
    job, study, trial = sys.argv[1:]
    with contextlib.redirect_stdout(sys.stderr):  # a job may print
        try:
            found = layers(job, study, int(trial))
        except NasError as error:
            found = {"detail": str(error)}
    sys.stdout.write(json.dumps(found) + "\n")


def layers(job: str, study: str, trial: int) -> dict[str, Any]:
    """Layers of a trial's network, and their sums.

    Raises:
        NasError: the job does not build it.
    """
    from nas.errors import StudyError
    from nas.evaluate.base import every
    from nas.study.job import load_job
    from nas.supernet import costs

    found = load_job(job)
    found.rename(study, store=os.environ["NAS_STORE"])
    arch = found.arch(trial)
    source = next((one for one in every(found.evaluators) if one.has_networks), None)
    if source is None:
        raise StudyError(f"no evaluator of study {study!r} says which network it evaluated")
    module = source.extract(arch)
    rows = costs.layers(module, source.example)
    return {
        "layers": [{**vars(one), "shape": list(one.shape)} for one in rows],
        "parameters": sum(weight.numel() for weight in module.parameters()),
        "macs": sum(one.macs for one in rows),
    }


if __name__ == "__main__":
    main()
