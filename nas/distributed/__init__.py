"""One supernet, trained by several processes: of this machine, or Ray Train's workers on a cluster.

    nas.distributed.run(training, workers=2)                              # here, one process a core or GPU
    nas.distributed.run(training, workers=8, address="head:6379")         # on a Ray cluster

What a training computes does not depend on how many processes it has (see `nas.train.ranks`), so that neither the job file nor
the checkpoints know of them: a training may begin in one process, go on in eight, and end in three.
"""

from __future__ import annotations

from nas.distributed.running import run

__all__ = ["run"]
