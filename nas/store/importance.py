"""How much each decision matters for an objective: permutation importance of a random forest (Breiman 2001, "Random Forests").

A forest learns the objective from the choices of some trials and predicts the others; what the error of that prediction grows
by when a decision's values change places among those others is the decision's importance.  It is a share of the objective's
variance, so that 0 is no effect, and it is worth as much as the forest explains at all, which is told beside it.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from nas.errors import MetricError, StoreError, suggest
from nas.store.filters import in_state

if TYPE_CHECKING:
    from nas.store.study import StudyRecord

LEAST, MOST = 20, 2_000
_FOLDS, _REPEATS, _TREES = 4, 3, 60
_WEAK = 0.2

Floats = NDArray[np.float64]


@dataclass(frozen=True)
class Weight:
    """A decision's importance: the share of variance, its mean and its standard deviation over folds."""

    name: str
    importance: float
    deviation: float


@dataclass(frozen=True)
class Importance:
    """Of one objective.

    Args:
        objective: name.
        trials: that it was computed from.
        explained: share of the variance of held-out trials that the forest explains; below 0 it knows less than their mean.
        decisions: the most important first.
        note: why it should not be trusted, or "".
    """

    objective: str
    trials: int
    explained: float
    decisions: list[Weight]
    note: str


def importance(record: StudyRecord, objective: str | None = None, where: str | None = None) -> Importance:
    """Importance of each decision, from at most 2,000 COMPLETED trials, evenly over their numbers.

    Args:
        record: of the study.
        objective: any metric; the study's first objective unless given.
        where: only trials that satisfy a filter.

    Raises:
        MetricError: it was never measured.
        StoreError: fewer than 20 trials have it.
        FilterError: the filter does not parse, or names a column that is not there.
    """
    name = objective or record.objectives[0].name
    known = record.metric_names()
    if name not in known:
        raise MetricError(f"metric {name!r} was not measured in study {record.name!r}{suggest(name, known)}")
    frame = record.sample([name, "choices"], in_state("COMPLETED", where), MOST).frame
    frame = frame[frame[name].notna()]
    if len(frame) < LEAST:
        raise StoreError(
            f"study {record.name!r} has {len(frame)} completed trials with {name!r}; importance needs {LEAST} or more"
        )
    values = frame[name].to_numpy(float)
    tables = [dict(choices) for choices in frame["choices"]]
    groups = {one["name"]: _encoded(one, tables) for one in record.schema["decisions"]}
    if float(values.std()) == 0.0:
        flat = [Weight(one, 0.0, 0.0) for one in groups]
        return Importance(name, len(frame), 0.0, flat, f"all trials have the same {name}")
    explained, weights = _permuted(groups, values)
    found = [Weight(one, float(each.mean()), float(each.std())) for one, each in weights.items()]
    note = ""
    if explained < _WEAK:
        note = f"choices explain {max(explained, 0.0):.0%} of {name} here, so that the order of decisions says little"
    return Importance(name, len(frame), explained, sorted(found, key=lambda one: -one.importance), note)


def _permuted(groups: dict[str, Floats], values: Floats) -> tuple[float, dict[str, Floats]]:
    """Explained variance over folds, and for each decision what is lost of it in each fold."""
    from sklearn.ensemble import RandomForestRegressor

    rng = np.random.default_rng(0)
    folds = rng.permutation(len(values)) % _FOLDS
    table = np.concatenate(list(groups.values()), axis=1)
    ends = np.cumsum([0, *(group.shape[1] for group in groups.values())])
    places = {name: slice(ends[at], ends[at + 1]) for at, name in enumerate(groups)}
    lost: dict[str, list[float]] = {name: [] for name in groups}
    kept = []
    for fold in range(_FOLDS):
        held = folds == fold
        forest = RandomForestRegressor(_TREES, min_samples_leaf=2, max_features=0.7, random_state=fold, n_jobs=1)
        forest.fit(table[~held], values[~held])
        told, truth = table[held], values[held]
        spread = float(((truth - values[~held].mean()) ** 2).mean()) or 1.0
        error = float(((forest.predict(told) - truth) ** 2).mean())
        kept.append(1.0 - error / spread)
        for name, place in places.items():
            worse = []
            for _ in range(_REPEATS):
                moved = told.copy()
                moved[:, place] = told[rng.permutation(len(told))][:, place]
                worse.append((float(((forest.predict(moved) - truth) ** 2).mean()) - error) / spread)
            lost[name].append(float(np.mean(worse)))
    return float(np.mean(kept)), {name: np.array(each) for name, each in lost.items()}


def _encoded(decision: dict[str, Any], tables: Sequence[dict[str, Any]]) -> Floats:
    """(n, k) columns of a decision: its number, or one for each candidate; one more says that it is inactive."""
    name, candidates = decision["name"], decision.get("candidates")
    numeric = candidates is None or all(
        isinstance(one, (int, float)) and not isinstance(one, bool) for one in candidates
    )
    inactive = np.array([[float(name not in table)] for table in tables])
    if numeric:
        return np.hstack([np.array([[float(table.get(name, 0.0))] for table in tables]), inactive])
    order = {_typed(one): at for at, one in enumerate(candidates or ())}
    hot = np.zeros((len(tables), len(order)))
    for at, table in enumerate(tables):
        if name in table and (place := order.get(_typed(table[name]))) is not None:
            hot[at, place] = 1.0
    return np.hstack([hot, inactive])


def _typed(value: Any) -> tuple[str, Any]:
    return type(value).__name__, value
