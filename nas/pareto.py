"""Pareto fronts, ranks, crowding and hypervolume.

Every objective is minimised: pass `value * metric.sign`.  Points are (n, m) float64; infinities are values like any
other, NaN is an error because it has no place in an order.  Fronts, ranks and volumes come from moocore (López-Ibáñez
et al.); `Front` keeps a front while points arrive one at a time.
"""

from __future__ import annotations

from bisect import bisect_left, bisect_right
from collections.abc import Sequence
from math import inf, isnan

import moocore
import numpy as np
from numpy.typing import ArrayLike, NDArray

Array = NDArray[np.float64]

__all__ = ["Front", "contributions", "crowding", "hypervolume", "non_dominated", "ranks"]


def _points(points: ArrayLike) -> Array:
    """`points` as (n, m) float64 without NaN."""
    array = np.asarray(points, dtype=np.float64)
    if array.ndim != 2 or array.shape[1] == 0:
        raise ValueError(f"points have shape {array.shape}; expected (n, m): a row a point, a column an objective")
    if np.isnan(array).any():
        row = int(np.isnan(array).any(axis=1).argmax())
        raise ValueError(f"point {row} holds NaN: {array[row].tolist()}; leave out what was not measured")
    return array


def _ordered(array: Array) -> Array:
    """`array` without infinities: dominance depends on the order within a column alone, so places do as well as values.

    moocore 0.3.2 takes infinities of three and more objectives for its own sentinels: wrong fronts, even a segfault.
    """
    if np.isfinite(array).all():
        return array
    places = [np.unique(column, return_inverse=True)[1] for column in array.T]
    return np.stack(places, axis=1).astype(np.float64)


def non_dominated(points: ArrayLike, *, duplicates: bool = False) -> NDArray[np.bool_]:
    """Which points no other point dominates.

    Args:
        points: (n, m), minimised; n may be 0.
        duplicates: keep all of exact duplicates; else only the first, so that a front has no repeats.

    Returns:
        (n,) mask.

    Raises:
        ValueError: not (n, m), or a value is NaN.
    """
    array = _points(points)
    return np.asarray(moocore.is_nondominated(_ordered(array), keep_weakly=duplicates), dtype=np.bool_).reshape(
        len(array)
    )


def ranks(points: ArrayLike) -> NDArray[np.int64]:
    """Depth of each point under non-dominated sorting: 0 for the front, 1 for the front of the rest, and so on.

    Exact duplicates share a rank.  Deb et al. 2002, "A Fast and Elitist Multiobjective Genetic Algorithm: NSGA-II".

    Args:
        points: (n, m), minimised; n may be 0.

    Returns:
        (n,) ranks.

    Raises:
        ValueError: not (n, m), or a value is NaN.
    """
    array = _points(points)
    return np.asarray(moocore.pareto_rank(_ordered(array)), dtype=np.int64).reshape(len(array))


def crowding(points: ArrayLike, fronts: NDArray[np.int64] | None = None) -> Array:
    """How much room each point has among `points`: the larger, the lonelier.

    For each objective, the distance between a point's two neighbours over the objective's range, summed over
    objectives; the first and the last of an objective have infinite room (Deb et al. 2002, section III-B).
    An objective without a range adds 0 to all; ties are taken in the order given.

    Args:
        points: (n, m), minimised; n may be 0.
        fronts: (n,) label of the front that each point is on, as `ranks` gives it: room is counted within a front.
            None when all are of one front.

    Returns:
        (n,) distances in [0, inf].

    Raises:
        ValueError: not (n, m), or a value is NaN.
    """
    array = _points(points)
    size = len(array)
    if size == 0:
        return np.zeros(0)
    labels = np.zeros(size, dtype=np.int64) if fronts is None else np.asarray(fronts)
    # Sorted by front first, every column has its fronts in the same places.
    label = np.sort(labels)
    starts = np.concatenate([[True], label[1:] != label[:-1]])
    first = starts.nonzero()[0]
    last = np.concatenate([first[1:], [size]]) - 1
    front = starts.cumsum() - 1
    several = last - first > 1  # a front of one or two is all ends
    distance, room = np.zeros(size), np.zeros(size)
    for column in array.T:
        order = np.lexsort((column, labels))
        ordered = column[order]
        low, high = ordered[first], ordered[last]
        with np.errstate(invalid="ignore", over="ignore", divide="ignore"):  # inf - inf: infinities say nothing of room
            room[1:-1] = (ordered[2:] - ordered[:-2]) / (high - low)[front[1:-1]]
        room[np.isnan(room)] = 0.0
        room[first] = room[last] = np.inf
        room[((low == high) & several)[front]] = 0.0
        distance[order] += room
    return distance


def hypervolume(points: ArrayLike, reference: ArrayLike) -> float:
    """Volume dominated by `points` and bounded by `reference`.

    Points beyond the reference add nothing; a point at -inf within it, or a reference at inf, makes the volume infinite.

    Args:
        points: (n, m) minimised objective values; n may be 0, which gives 0.0.
        reference: (m,) upper bound, in the units of the objectives.

    Raises:
        ValueError: `points` and `reference` differ in m, or a value is NaN.
    """
    array = _points(points)
    bound = np.asarray(reference, dtype=np.float64)
    if bound.shape != (array.shape[1],):
        raise ValueError(f"reference has shape {bound.shape}; expected ({array.shape[1]},), a value an objective")
    if np.isnan(bound).any():
        raise ValueError(f"reference holds NaN: {bound.tolist()}")
    inside = array[(array < bound).all(axis=1)]
    if not len(inside):
        return 0.0
    if not (np.isfinite(inside).all() and np.isfinite(bound).all()):
        return inf
    return float(moocore.hypervolume(inside, ref=bound))


def growth(points: ArrayLike, reference: ArrayLike) -> tuple[NDArray[np.int64], Array]:
    """How the hypervolume of a front grows while points arrive.

    Args:
        points: (n, m), to be minimised, in the order in which they arrive.
        reference: (m,).

    Returns:
        (k,) numbers of points after which the front was another, and (k,) its hypervolume then.
    """
    array = _points(points)
    front, counts, volumes = Front(array.shape[1]) if len(array) else None, [], []
    for at, point in enumerate(array.tolist()):
        if front is not None and not front.covers(point) and front.add(at, point)[0]:
            counts.append(at + 1)
            volumes.append(hypervolume(front.points, reference))
    return np.array(counts, dtype=np.int64), np.array(volumes, dtype=np.float64)


def contributions(points: ArrayLike, reference: ArrayLike) -> Array:
    """Volume that each point alone dominates within `reference`: what its removal takes from the hypervolume.

    Args:
        points: (n, m) finite, minimised, none of which dominates another; n may be 0.
        reference: (m,) finite upper bound.

    Returns:
        (n,) volumes.

    Raises:
        ValueError: not (n, m), or a value is NaN.
    """
    array = _points(points)
    if len(array) < 2:  # nor does moocore take one objective, of which a front has one point
        return np.array([hypervolume(array, reference)][: len(array)])
    return np.asarray(moocore.hv_contributions(array, ref=np.asarray(reference, dtype=np.float64)), dtype=np.float64)


class Front:
    """A Pareto front that is kept while points arrive, each under a key of the caller's (a trial's number).

    A point that equals one on the front does not enter: the first stays.  What the front holds is therefore a function
    of the sequence of `add`s.  Two objectives are kept as a staircase (a bisection an add, about 1 µs); more are compared
    with the whole front by numpy.

    >>> front = Front(2)
    >>> front.add(7, (1.0, 2.0)), front.add(8, (2.0, 2.0)), front.add(9, (0.5, 0.5))
    ((True, []), (False, []), (True, [7]))

    Args:
        objectives: m, the length of every point.

    Raises:
        ValueError: fewer than one objective.
    """

    objectives: int

    def __new__(cls, objectives: int = 2) -> Front:  # noqa: D102
        if objectives < 1:
            raise ValueError(f"a front needs at least one objective; {objectives} given")
        front = super().__new__(_Staircase if objectives == 2 else _Cloud)
        front.objectives = objectives
        return front

    def __getnewargs__(self) -> tuple[int]:
        return (self.objectives,)

    def add(self, key: int, point: Sequence[float]) -> tuple[bool, list[int]]:
        """Offers a point: (whether it entered, the keys that it drove out).

        Raises:
            ValueError: not m values, one is NaN, or `key` is already on the front.
        """
        raise NotImplementedError

    def covers(self, point: Sequence[float]) -> bool:
        """Whether a point on the front is as good in everything, so that `point` would not enter; it has m numbers."""
        raise NotImplementedError

    def discard(self, key: int) -> None:
        """Takes a key off, if it is on the front.  Points that only it dominated do not come back: add them again."""
        raise NotImplementedError

    @property
    def keys(self) -> list[int]:
        """Keys on the front, in the order of their points (first objective first)."""
        raise NotImplementedError

    @property
    def points(self) -> Array:
        """(k, m) points on the front, aligned with `keys`."""
        raise NotImplementedError

    def __len__(self) -> int:
        raise NotImplementedError

    def __contains__(self, key: object) -> bool:
        raise NotImplementedError

    def _refuse(self, key: int, point: Sequence[float]) -> ValueError:
        """What is wrong with a point that cannot be added."""
        if len(point) != self.objectives:
            return ValueError(
                f"point {tuple(point)} has {len(point)} values; this front has {self.objectives} objectives"
            )
        if key in self:
            return ValueError(f"key {key} is already on the front; discard it before adding it again")
        return ValueError(f"point {tuple(point)} of key {key} holds NaN; leave out what was not measured")


class _Staircase(Front):
    """Two objectives: first values ascend and second values descend, so bisection finds a point's two neighbours."""

    def __init__(self, objectives: int = 2) -> None:
        assert objectives == 2
        self._first: list[float] = []
        self._second: list[float] = []
        self._keys: list[int] = []
        self._on: dict[int, float] = {}  # key -> first value, to find it again

    def add(self, key: int, point: Sequence[float]) -> tuple[bool, list[int]]:
        if len(point) != 2:
            raise self._refuse(key, point)
        first, second = point
        if isnan(first) or isnan(second):
            raise self._refuse(key, point)
        if self.covers(point):
            return False, []
        firsts, seconds, size = self._first, self._second, len(self._first)
        at = bisect_left(firsts, first)
        if key in self._on:
            raise self._refuse(key, point)
        end = at
        while end < size and seconds[end] >= second:
            end += 1
        evicted = self._keys[at:end]
        for gone in evicted:
            del self._on[gone]
        firsts[at:end] = (first,)
        seconds[at:end] = (second,)
        self._keys[at:end] = (key,)
        self._on[key] = first
        return True, evicted

    def covers(self, point: Sequence[float]) -> bool:
        first, second = point
        at = bisect_right(self._first, first)
        return at > 0 and self._second[at - 1] <= second

    def discard(self, key: int) -> None:
        first = self._on.pop(key, None)
        if first is not None:
            at = bisect_left(self._first, first)
            del self._first[at], self._second[at], self._keys[at]

    @property
    def keys(self) -> list[int]:
        return list(self._keys)

    @property
    def points(self) -> Array:
        return np.array([self._first, self._second], dtype=np.float64).T.reshape(-1, 2)

    def __len__(self) -> int:
        return len(self._keys)

    def __contains__(self, key: object) -> bool:
        return key in self._on


class _Cloud(Front):
    """Any number of objectives: the front is the first rows of an array that grows by doubling."""

    def __init__(self, objectives: int = 2) -> None:
        self._rows = np.empty((16, objectives))
        self._keys: list[int] = []
        self._at: dict[int, int] = {}  # key -> row

    def add(self, key: int, point: Sequence[float]) -> tuple[bool, list[int]]:
        if len(point) != self.objectives or any(isnan(value) for value in point):
            raise self._refuse(key, point)
        rows = self._rows[: len(self._keys)]
        values = np.asarray(point, dtype=np.float64)
        if self.covers(values):
            return False, []
        if key in self._at:
            raise self._refuse(key, point)
        evicted = [self._keys[row] for row in np.flatnonzero((rows >= values).all(axis=1))]
        for gone in evicted:
            self.discard(gone)
        size = len(self._keys)
        if size == len(self._rows):
            self._rows = np.concatenate([self._rows, np.empty_like(self._rows)])
        self._rows[size] = values
        self._keys.append(key)
        self._at[key] = size
        return True, evicted

    def covers(self, point: Sequence[float] | Array) -> bool:
        rows = self._rows[: len(self._keys)]
        return bool((rows <= np.asarray(point, dtype=np.float64)).all(axis=1).any())

    def discard(self, key: int) -> None:
        row = self._at.pop(key, None)
        if row is None:
            return
        last = self._keys.pop()
        if last != key:  # the last row fills the gap
            self._keys[row] = last
            self._rows[row] = self._rows[len(self._keys)]
            self._at[last] = row

    def _order(self) -> NDArray[np.int64]:
        return np.lexsort(self._rows[: len(self._keys)].T[::-1])

    @property
    def keys(self) -> list[int]:
        return [self._keys[row] for row in self._order()]

    @property
    def points(self) -> Array:
        return self._rows[self._order()]

    def __len__(self) -> int:
        return len(self._keys)

    def __contains__(self, key: object) -> bool:
        return key in self._at
