"""The backend `"nas"` of `pg.sample`."""

from __future__ import annotations

import uuid
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pyglove as pg

from nas.errors import StudyError, suggest
from nas.metrics import Metric
from nas.pyglove.feedback import NasFeedback
from nas.pyglove.policy import Stopping
from nas.pyglove.result import NasResult
from nas.pyglove.sampling import Sampling
from nas.pyglove.spaces import space_of
from nas.pyglove.store import shared_store, study_of
from nas.search.dna_search import DNASearch


@pg.tuning.add_backend("nas")
class NasBackend(pg.tuning.Backend):  # type: ignore[misc]  # pyglove has no types for us
    """Runs a sampling on a results database.

    What differs from PyGlove's backend in memory:

    - an arch is evaluated once: a proposal that the database knows is passed over, and the algorithm asked again;
    - a trial is given up by a worker that died (its process is gone, or it was silent for a minute), and the next worker of the
      sampling gets it, with what was measured of it;
    - the algorithm that is given is copied; each process has its own, kept equal by what the database tells.

    Args:
        name: of the sampling, and of its study; without one it gets a new name and cannot be shared.
        group: workers of one group get the same trial; without one every thread is its own.
        dna_spec: the space.
        algorithm: any `pg.DNAGenerator`.
        metrics_to_optimize: names of metrics; all are maximised.
        early_stopping_policy: asked by `feedback.should_stop_early()`.
        num_examples: trials that the sampling may have, those of all workers and earlier runs together.
        store: path or URL of the database; `$NAS_STORE` or nas.db unless given.
        penalty: reward of skipped trials, see `nas.search.DNASearch`.
        seed: names the random numbers of a generator without seeds of its own.

    Raises:
        StudyError: the sampling was begun with something else, or an option is unknown.
        SpaceError: the space has choices that are not known beforehand.
        AlgorithmError: the algorithm does not fit the metrics.
    """

    def __init__(  # noqa: PLR0917 (PyGlove gives the first seven)
        self,
        name: str | None,
        group: str | int | None,
        dna_spec: pg.DNASpec,
        algorithm: pg.DNAGenerator,
        metrics_to_optimize: Sequence[str],
        early_stopping_policy: pg.tuning.EarlyStoppingPolicy | None = None,
        num_examples: int | None = None,
        *,
        store: str | Path | None = None,
        penalty: float | None = None,
        seed: int = 0,
        **unknown: Any,
    ) -> None:
        super().__init__()
        for option in unknown:
            options = ("store", "penalty", "seed")
            raise StudyError(
                f"backend 'nas' has no option {option!r}; it has {', '.join(options)}{suggest(option, options)}"
            )
        name = name or f"unnamed-{uuid.uuid4().hex[:12]}"
        self._metrics = list(metrics_to_optimize)
        search = DNASearch(algorithm, penalty=penalty, seed=seed)
        space = space_of(dna_spec, name)
        search.bind(space, [Metric(metric, "max") for metric in self._metrics])
        self._record = study_of(shared_store(store, create=True), name, space, search, self._metrics)
        self._sampling = Sampling(self._record, space, search, group, num_examples)
        self._stopping = (
            None
            if early_stopping_policy is None
            else Stopping(early_stopping_policy, dna_spec, self._sampling, self._record)
        )

    def next(self) -> NasFeedback:
        """The next trial to work on.

        Raises:
            StopIteration: there is none.
        """
        number, attempt, dna = self._sampling.next()
        feedback = NasFeedback(
            self._record,
            number,
            attempt=attempt,
            worker=self._sampling.owner,
            dna=dna,
            metrics=self._metrics,
            stopping=self._stopping,
        )
        if self._stopping is not None and attempt > 1:
            self._stopping.begun(feedback.get_trial())
        return feedback

    @classmethod
    def poll_result(cls, name: str, store: str | Path | None = None) -> NasResult:
        """A sampling, or any other study of PyGlove's, as the database has it now.

        Raises:
            StoreError: there is no such database, or no such study in it.
        """
        return NasResult(shared_store(store, create=False).open_study(name))
