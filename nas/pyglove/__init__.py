"""PyGlove programs on our store: `import nas.pyglove` registers the backend `"nas"` of `pg.sample`.

    import pyglove as pg
    import nas.pyglove

    for example, feedback in pg.sample(space, pg.evolution.regularized_evolution(), 100, name="demo", backend="nas"):
        feedback(evaluate(example))

Trials, measurements, metadata and links are in the database (`store=`, `$NAS_STORE`, or nas.db in this folder).  Processes that
sample the same `name` share its trials; the same program goes on where a killed one stopped; `nas show demo` and
`nas front demo` read it like any study.

- `NasBackend`: the backend, and what its options are.
- `NasFeedback`: what a program is given beside each example.
- `NasResult`: what `pg.tuning.poll_result(name, backend="nas")` gives.
- `space_of`: a `DNASpec` as a `nas.Space`.
"""

from __future__ import annotations

from nas.pyglove.backend import NasBackend
from nas.pyglove.feedback import NasFeedback
from nas.pyglove.result import NasResult
from nas.pyglove.spaces import space_of

__all__ = ["NasBackend", "NasFeedback", "NasResult", "space_of"]
