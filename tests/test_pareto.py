"""`nas.pareto` against slow second implementations and closed forms."""

from __future__ import annotations

import pickle
import random

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from nas.pareto import Front, contributions, crowding, growth, hypervolume, non_dominated, ranks


def clouds(smallest: int = 0, largest: int = 24, objectives: tuple[int, int] = (1, 5)) -> st.SearchStrategy[np.ndarray]:
    """Points on a coarse grid, so that ties and duplicates are common, with infinities among them."""
    values = st.one_of(st.integers(-3, 3).map(float), st.sampled_from([np.inf, -np.inf, 0.5]))
    return st.integers(*objectives).flatmap(
        lambda m: hnp.arrays(np.float64, st.tuples(st.integers(smallest, largest), st.just(m)), elements=values)
    )


def dominates(a: np.ndarray, b: np.ndarray) -> bool:
    return bool((a <= b).all() and (a < b).any())


def slow_non_dominated(points: np.ndarray) -> list[bool]:
    return [
        not any(dominates(other, point) for other in points)
        and not any((other == point).all() for other in points[:at])
        for at, point in enumerate(points)
    ]


def slow_ranks(points: np.ndarray) -> list[int]:
    depth, left = [-1] * len(points), set(range(len(points)))
    level = 0
    while left:
        front = {i for i in left if not any(dominates(points[j], points[i]) for j in left)}
        for i in front:
            depth[i] = level
        left -= front
        level += 1
    return depth


@given(clouds())
def test_non_dominated_is_the_definition(points: np.ndarray) -> None:
    assert non_dominated(points).tolist() == slow_non_dominated(points)


@given(clouds())
def test_ranks_peel_one_front_after_another(points: np.ndarray) -> None:
    assert ranks(points).tolist() == slow_ranks(points)


def test_many_objectives_and_many_points_agree_with_the_definition() -> None:
    # moocore takes other algorithms above a few dozen points and from four objectives on.
    rng = np.random.default_rng(0)
    for m in (2, 3, 4, 6):
        points = rng.integers(0, 6, (300, m)).astype(float)
        assert non_dominated(points).tolist() == slow_non_dominated(points)
        assert ranks(points).tolist() == slow_ranks(points)


def test_crowding_of_a_line_is_the_closed_form() -> None:
    # Evenly spread: each inner point's neighbours are 2/4 apart in both objectives.
    line = np.array([[i, 4 - i] for i in range(5)], dtype=float)
    assert crowding(line).tolist() == [np.inf, 1.0, 1.0, 1.0, np.inf]
    uneven = np.array([[0, 10], [1, 4], [10, 0]], dtype=float)
    assert crowding(uneven).tolist() == [np.inf, 2.0, np.inf]
    shuffled = line[[3, 0, 4, 1, 2]]
    assert crowding(shuffled).tolist() == [1.0, np.inf, np.inf, 1.0, 1.0]


@given(clouds(objectives=(1, 4)))
def test_crowding_is_never_nan_and_ends_are_lonely(points: np.ndarray) -> None:
    room = crowding(points)
    assert room.shape == (len(points),)
    assert (room >= 0).all()  # false for NaN too
    if len(points) < 3:
        assert np.isinf(room).all()
    elif np.ptp(np.nan_to_num(points[:, 0], posinf=9, neginf=-9)) > 0:
        assert np.isinf(room[points[:, 0].argmin()])


def slow_crowding(points: np.ndarray) -> np.ndarray:
    """As the paper writes it, one front and one objective at a time; finite points."""
    room = np.zeros(len(points))
    if len(points) < 3:
        return np.full(len(points), np.inf)
    for column in points.T:
        order = sorted(range(len(points)), key=lambda i: column[i])
        low, high = column[order[0]], column[order[-1]]
        if low == high:
            continue
        room[order[0]] = room[order[-1]] = np.inf
        for at in range(1, len(order) - 1):
            room[order[at]] += (column[order[at + 1]] - column[order[at - 1]]) / (high - low)
    return room


@given(clouds(objectives=(1, 4)))
def test_crowding_is_the_papers_within_each_front(points: np.ndarray) -> None:
    points = np.clip(points, -9, 9)
    depth = ranks(points)
    expected = np.zeros(len(points))
    for level in set(depth.tolist()):
        expected[depth == level] = slow_crowding(points[depth == level])
    np.testing.assert_allclose(crowding(points, depth), expected, rtol=1e-12)
    np.testing.assert_allclose(crowding(points), slow_crowding(points), rtol=1e-12)


def test_crowding_of_equal_points_is_zero() -> None:
    assert crowding(np.ones((4, 2))).tolist() == [0.0] * 4


@given(st.lists(st.tuples(st.integers(1, 9), st.integers(1, 9)), min_size=1, max_size=12))
def test_hypervolume_of_a_staircase_is_the_area_of_its_cells(corners: list[tuple[int, int]]) -> None:
    # Count unit cells of the 10 x 10 square that some corner dominates.
    points = np.array(corners, dtype=float)
    cells = sum(any(x <= i and y <= j for x, y in corners) for i in range(10) for j in range(10))
    assert hypervolume(points, [10, 10]) == pytest.approx(cells)


def test_infinite_points_have_infinite_volume() -> None:
    assert hypervolume([[-np.inf, 0, 0], [0, 0, 0]], [1, 1, 1]) == np.inf
    assert hypervolume([[-np.inf, 2, 0], [np.inf, -1, -1]], [1, 1, 1]) == 0.0
    assert hypervolume([[0.0]], [np.inf]) == np.inf


@given(clouds(1, 10, (1, 4)), st.integers(0, 4))
def test_hypervolume_counts_cells_in_any_dimension(points: np.ndarray, beyond: int) -> None:
    points = np.floor(np.clip(points, -3, 3))
    bound = np.full(points.shape[1], 4.0 - beyond)
    grid = np.stack(np.meshgrid(*[np.arange(-3, bound[0])] * points.shape[1], indexing="ij"), -1)
    grid = grid.reshape(-1, points.shape[1])
    cells = (points[None] <= grid[:, None]).all(2).any(1).sum()
    assert hypervolume(points, bound) == pytest.approx(cells)


def test_hypervolume_of_a_box_is_its_volume() -> None:
    assert hypervolume([[1, 2, 3]], [2, 4, 6]) == pytest.approx(1 * 2 * 3)
    assert hypervolume(np.empty((0, 3)), [2, 4, 6]) == 0.0
    assert hypervolume([[2, 0, 0]], [2, 4, 6]) == 0.0  # on the border


@pytest.mark.parametrize("objectives", [1, 2, 3, 4])
def test_a_contribution_is_what_the_volume_loses_without_the_point(objectives: int) -> None:
    cloud, bound = np.random.default_rng(objectives).random((40, objectives)), np.ones(objectives)
    front = cloud[non_dominated(cloud)]
    rest = np.array([hypervolume(np.delete(front, at, 0), bound) for at in range(len(front))])
    np.testing.assert_allclose(contributions(front, bound), hypervolume(front, bound) - rest, atol=1e-12)
    assert contributions(np.empty((0, objectives)), bound).shape == (0,)


@pytest.mark.parametrize("measure", [non_dominated, ranks, crowding, lambda points: hypervolume(points, [1, 1])])
def test_nan_and_wrong_shapes_are_refused(measure: object) -> None:
    with pytest.raises(ValueError, match=r"point 1 holds NaN: \[nan, 2\.0\]"):
        measure([[1.0, 2.0], [float("nan"), 2.0]])  # type: ignore[operator]
    with pytest.raises(ValueError, match=r"shape \(2,\); expected \(n, m\)"):
        measure([1.0, 2.0])  # type: ignore[operator]
    with pytest.raises(ValueError, match="expected"):
        measure(np.empty((2, 0)))  # type: ignore[operator]


def test_reference_must_fit() -> None:
    with pytest.raises(ValueError, match=r"reference has shape \(3,\); expected \(2,\)"):
        hypervolume([[1, 2]], [1, 2, 3])
    with pytest.raises(ValueError, match="reference holds NaN"):
        hypervolume([[1, 2]], [1, float("nan")])


@given(clouds(objectives=(1, 4)))
def test_front_holds_what_non_dominated_keeps_after_every_add(points: np.ndarray) -> None:
    front = Front(points.shape[1])
    held: set[int] = set()
    for key, point in enumerate(points.tolist()):
        covered = front.covers(point)
        entered, evicted = front.add(key, tuple(point))
        assert entered is not covered
        assert front.covers(point)
        assert held.issuperset(evicted)
        held = (held - set(evicted)) | ({key} if entered else set())
        kept = np.nonzero(non_dominated(points[: key + 1]))[0]
        assert held == set(kept.tolist()) == set(front.keys)
        assert len(front) == len(held)
        assert front.points.tolist() == points[front.keys].tolist()
        assert front.points.tolist() == sorted(points[kept].tolist())
        assert all(key in front for key in held)


@settings(max_examples=50)
@given(clouds(1, objectives=(2, 3)), st.randoms(use_true_random=False))
def test_discarded_keys_leave_and_may_come_back(points: np.ndarray, rng: random.Random) -> None:
    front = Front(points.shape[1])
    for key, point in enumerate(points.tolist()):
        front.add(key, point)
    gone = rng.choice(front.keys)
    rest = [key for key in front.keys if key != gone]
    front.discard(gone)
    front.discard(gone)  # not there: nothing happens
    assert front.keys == rest
    assert gone not in front
    assert front.add(gone, points[gone].tolist()) == (True, [])
    assert set(front.keys) == {gone, *rest}


@pytest.mark.parametrize("objectives", [1, 2, 3])
def test_front_refuses_what_it_cannot_hold(objectives: int) -> None:
    front = Front(objectives)
    assert front.points.shape == (0, objectives)
    front.add(5, (1.0,) * objectives)
    with pytest.raises(ValueError, match=f"has {objectives + 1} values; this front has {objectives} objectives"):
        front.add(6, (1.0,) * (objectives + 1))
    with pytest.raises(ValueError, match="of key 6 holds NaN"):
        front.add(6, (0.0,) * (objectives - 1) + (float("nan"),))
    with pytest.raises(ValueError, match="key 5 is already on the front"):
        front.add(5, (0.0,) * objectives)
    assert front.keys == [5]
    with pytest.raises(ValueError, match="at least one objective; 0 given"):
        Front(0)


@pytest.mark.parametrize("objectives", [2, 3])
def test_front_of_many_points_equals_the_batch_answer(objectives: int) -> None:
    points = np.random.default_rng(1).normal(size=(3000, objectives))
    front = Front(objectives)
    for key, point in enumerate(points.tolist()):
        front.add(key, point)
    assert set(front.keys) == set(np.nonzero(non_dominated(points))[0].tolist())
    again = pickle.loads(pickle.dumps(front))
    assert again.keys == front.keys
    assert again.points.tolist() == front.points.tolist()


@given(clouds(largest=12))
def test_growth_is_the_hypervolume_of_what_has_arrived(points: np.ndarray) -> None:
    points = np.where(np.isfinite(points), points, 0.0)
    reference = np.full(points.shape[1], 5.0)
    counts, volumes = growth(points, reference)
    known = dict(zip(counts.tolist(), volumes.tolist(), strict=True))
    last = 0.0
    for n in range(1, len(points) + 1):
        expected = hypervolume(points[:n], reference)
        if n in known:
            last = known[n]
        assert last == pytest.approx(expected)
    assert counts.tolist() == sorted(set(counts.tolist()))
