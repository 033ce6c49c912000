"""What every search algorithm must do; each implementation inherits a suite and says how it is made."""

from __future__ import annotations

import json
import math
import random
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from functools import cache
from typing import Any

import numpy as np
import pyglove as pg
import pytest

from nas.errors import AlgorithmError
from nas.metrics import Metric
from nas.pareto import hypervolume
from nas.search import Algorithm, Exhausted, Finished, History, LazyArchs, make
from nas.space import Arch, Space

Landscape = Callable[[Arch], tuple[float, ...]]
Outcome = Callable[[int, Arch], Finished]

ONE = (Metric("error", "min"),)
TWO = (Metric("error", "min"), Metric("cost", "min"))
THREE = (*TWO, Metric("kinds", "min"))


def archs(space: Space, n: int) -> list[Arch]:
    rng = random.Random(0)
    return [space.sample(rng) for _ in range(n)]


@cache
def flat(decisions: int = 11) -> Space:
    """`decisions` choices of four each, without conditions."""
    return Space(pg.Dict({f"d{i}": pg.oneof([0, 1, 2, 3]) for i in range(decisions)}), name=f"flat-{decisions}")


@cache
def small() -> Space:
    """64 archs."""
    return flat(3)


@cache
def conditional() -> Space:
    """Nested choices, a set of distinct ones and an ordered one: 2,184 archs."""
    block = [
        pg.Dict(kind="conv", kernel=pg.oneof([3, 5, 7]), ratio=pg.oneof([1, 2, 4])),
        pg.Dict(kind="attention", heads=pg.oneof([1, 2, 4, 8])),
        "skip",
    ]
    return Space(
        pg.Dict(
            width=pg.oneof([16, 32]),
            block=pg.oneof(block),
            stages=pg.manyof(2, [1, 2, 3, 4, 5, 6], distinct=True, sorted=True),
            order=pg.oneof([pg.Dict(steps=pg.manyof(2, [0, 1], distinct=True)), *range(3)]),
        ),
        name="conditional",
    )


@cache
def continuous() -> Space:
    return Space(
        pg.Dict(rate=pg.floatv(1e-4, 1.0, scale="log"), drop=pg.floatv(0.0, 0.5), depth=pg.oneof([1, 2, 3])),
        name="continuous",
    )


def trade_off(arch: Arch) -> tuple[float, float]:
    """A closed form with a known front: each decision lowers the error by its weight and raises the cost by one a step."""
    genome = [gene or 0 for gene in arch.genome]
    error = sum((1 + i % 4) * (1 - gene / 3) ** 2 for i, gene in enumerate(genome))
    return float(error), float(sum(genome))


def error_only(arch: Arch) -> tuple[float, ...]:
    """Distance of the genome from a hidden one: 0.0 at best, on average 5/4 a decision."""
    return (float(sum(abs((gene or 0) - (7 * i + 2) % 4) for i, gene in enumerate(arch.genome))),)


def completed(landscape: Landscape) -> Outcome:
    return lambda number, arch: Finished(number, arch, landscape(arch))


def troubled(landscape: Landscape) -> Outcome:
    """A third of the archs fail or are infeasible, with and without measurements, as a function of the arch."""

    def outcome(number: int, arch: Arch) -> Finished:
        fate = int(arch.key[:4], 16) % 12
        if fate == 0:
            return Finished(number, arch, None, 0.0, "FAILED")
        if fate == 1:
            return Finished(number, arch, None, float("inf"), "INFEASIBLE")
        if fate in (2, 3):
            return Finished(number, arch, landscape(arch), fate / 7, "INFEASIBLE")
        return Finished(number, arch, landscape(arch))

    return outcome


@dataclass
class Run:
    """What a study would know: trials in the order they finished, those under way, and all archs in the order asked."""

    finished: list[Finished] = field(default_factory=list)
    running: list[tuple[int, Arch]] = field(default_factory=list)
    asked: list[Arch] = field(default_factory=list)


def drive(
    algorithm: Algorithm, outcome: Outcome, trials: int, *, workers: int = 1, seed: int = 0, run: Run | None = None
) -> Run:
    """Runs until `trials` are asked: as many under way as there are workers, finishing in a random order."""
    run = run or Run()
    rng = random.Random(seed)
    while len(run.asked) < trials:
        free = min(workers - len(run.running), trials - len(run.asked))
        if free > 0:
            archs = algorithm.ask(rng.randint(1, free))
            assert len(archs) <= free
            assert archs or run.running, "ask may return [] only while trials are under way"
            run.running += [(len(run.asked) + i, arch) for i, arch in enumerate(archs)]
            run.asked += archs
            if archs and rng.random() < 0.5:
                continue
        done = rng.sample(range(len(run.running)), rng.randint(1, len(run.running)))
        trials_done = [outcome(*run.running[i]) for i in done]
        run.running = [task for i, task in enumerate(run.running) if i not in done]
        run.finished += trials_done
        algorithm.tell(trials_done)
    return run


def keys(archs: list[Arch]) -> list[str]:
    return [arch.key for arch in archs]


def area(finished: list[Finished], reference: tuple[float, float]) -> float:
    points = [trial.values for trial in finished if trial.values is not None and trial.violation == 0]
    return hypervolume(np.array(points, dtype=float).reshape(-1, 2), reference)


def sign_test(wins: int, games: int) -> float:
    """Probability of at least `wins` of `games` by coin tosses."""
    from math import comb

    return sum(comb(games, k) for k in range(wins, games + 1)) / 2**games


class AlgorithmConformance:
    """Inherit, and fill `make`."""

    seeded = True  # whether another seed gives other proposals
    continuous = True  # whether it searches continuous choices
    rebuilt = 60  # archs that may be made when 400 trials are restored
    share = 1.0  # of the usual number of trials, for algorithms whose proposals take milliseconds

    def make(self, seed: int = 0) -> Algorithm:
        """A new, unbound instance with a population of at most 20."""
        raise NotImplementedError

    def bound(self, space: Space, objectives: tuple[Metric, ...] = TWO, seed: int = 0) -> Algorithm:
        algorithm = self.make(seed)
        algorithm.bind(space, objectives, ())
        return algorithm

    def trials(self, usual: int) -> int:
        """How many trials a test runs where `usual` are the rule."""
        return max(1, round(usual * self.share))

    def spaces(self) -> Iterator[Space]:
        yield from (flat(), conditional())
        if self.continuous:
            yield continuous()

    # -- what is proposed --------------------------------------------------------------------------------------------------

    @pytest.mark.parametrize("objectives", [TWO, THREE], ids=["two", "three"])
    def test_units_of_objectives_change_no_proposal(self, objectives: tuple[Metric, ...]) -> None:
        """Neither ten thousand times one of them, nor another base of its logarithm."""

        def measured(scales: tuple[float, ...]) -> list[str]:
            def outcome(number: int, arch: Arch) -> Finished:
                error, cost = trade_off(arch)
                whole = (
                    round(9 * error),
                    cost,
                    len(set(arch.genome)),
                )  # so that archs that are equal are so in all units
                values = [math.log(2.0 + value) for value in whole]
                return Finished(number, arch, tuple(v * s for v, s, _ in zip(values, scales, objectives, strict=False)))

            return keys(drive(self.bound(flat(), objectives), outcome, self.trials(120), workers=3).asked)

        plain = measured((1.0, 1.0, 1.0))
        assert measured((1e4, 1.0, 1.0)) == plain
        assert measured((1.0, 1e-3 / math.log(2.0), 1.0 / math.log(10.0))) == plain

    def test_proposals_are_in_the_space_and_new(self) -> None:
        for space in self.spaces():
            run = drive(self.bound(space), completed(trade_off), self.trials(300), workers=5)
            assert len(set(keys(run.asked))) == self.trials(300)
            assert all(arch.space is space and space.why_not(arch.choices) is None for arch in run.asked)

    def test_same_seed_and_history_give_the_same_proposals(self) -> None:
        for space in self.spaces():
            trials = self.trials(200)
            first, again = (drive(self.bound(space), troubled(trade_off), trials, workers=3) for _ in range(2))
            assert keys(first.asked) == keys(again.asked)
            if self.seeded:
                other = drive(self.bound(space, seed=1), troubled(trade_off), trials, workers=3)
                assert keys(first.asked) != keys(other.asked)

    def test_asking_for_many_is_asking_one_by_one(self) -> None:
        many, single = self.bound(flat()), self.bound(flat())
        for algorithm in (many, single):
            drive(algorithm, completed(trade_off), 65)
        assert keys(many.ask(8)) == [single.ask(1)[0].key for _ in range(8)]

    def test_repeats_itself_whatever_the_hash_seed_and_the_clock(self) -> None:
        # Golden values would pin the space's sampling; that the global random state is not used can be tested as well.
        random.seed(1)
        np.random.seed(1)
        first = drive(self.bound(flat()), completed(trade_off), 60)
        state = random.getstate()
        random.seed(2)
        np.random.seed(2)
        assert keys(drive(self.bound(flat()), completed(trade_off), 60).asked) == keys(first.asked)
        random.setstate(state)

    # -- what it is told ---------------------------------------------------------------------------------------------------

    @pytest.mark.parametrize("objectives", [ONE, TWO, (*TWO, Metric("third", "max"))])
    def test_survives_failed_infeasible_and_late_trials(self, objectives: tuple[Metric, ...]) -> None:
        def landscape(arch: Arch) -> tuple[float, ...]:
            return (*trade_off(arch), -float(len(arch.choices)))[: len(objectives)]

        for space in self.spaces():
            run = drive(self.bound(space, objectives), troubled(landscape), max(150, self.trials(250)), workers=9)
            assert {trial.state for trial in run.finished} == {"COMPLETED", "INFEASIBLE", "FAILED"}

    @pytest.mark.parametrize("state", ["FAILED", "INFEASIBLE"])
    def test_goes_on_when_nothing_ever_succeeds(self, state: Any) -> None:
        def outcome(number: int, arch: Arch) -> Finished:
            return Finished(number, arch, None, 0.0, state)

        trials = self.trials(150)
        assert len(set(keys(drive(self.bound(flat()), outcome, trials, workers=4).asked))) == trials

    def test_infinite_values_are_values(self) -> None:
        def outcome(number: int, arch: Arch) -> Finished:
            return Finished(number, arch, (float("inf") if number % 3 else -float("inf"), float(number)))

        assert len(drive(self.bound(flat()), outcome, self.trials(150)).asked) == self.trials(150)

    def test_equal_values_everywhere_do_not_stop_it(self) -> None:
        run = drive(self.bound(flat()), completed(lambda arch: (1.0, 1.0)), self.trials(200), workers=4)
        assert len(set(keys(run.asked))) == self.trials(200)

    def test_foreign_trials_are_learnt_from_and_never_proposed(self) -> None:
        rng = random.Random(3)
        foreign = list({arch.key: arch for arch in (small().sample(rng) for _ in range(40))}.values())
        algorithm = self.bound(small())
        algorithm.tell(completed(trade_off)(1000 + i, arch) for i, arch in enumerate(foreign))
        rest = drive(algorithm, completed(trade_off), 64 - len(foreign))
        assert not set(keys(rest.asked)) & set(keys(foreign))
        assert algorithm.known == 64

    def test_a_trial_told_twice_counts_once(self) -> None:
        once, twice = self.bound(flat()), self.bound(flat())
        run = drive(once, completed(trade_off), 70)
        for trial in run.finished:
            twice.tell([trial, trial._replace(number=trial.number + 1000)])
        twice.reserve(arch for _, arch in run.running)
        assert keys(once.ask(10)) == keys(twice.ask(10))

    def test_a_refused_call_leaves_nothing_behind(self) -> None:
        refused, never = self.bound(flat()), self.bound(flat())
        run = drive(never, completed(trade_off), 50)
        for trial in run.finished:
            with pytest.raises(AlgorithmError):
                refused.tell([trial, trial._replace(values=(float("nan"), 0.0))])
            refused.tell([trial])
        refused.reserve(arch for _, arch in run.running)
        assert keys(refused.ask(9)) == keys(never.ask(9))

    # -- restart -----------------------------------------------------------------------------------------------------------

    @pytest.mark.parametrize("trials", [0, 1, 19, 20, 21, 57, 100, 130])
    def test_rebuilds_from_history_to_the_same_proposals(self, trials: int) -> None:
        for space in self.spaces():
            live = self.bound(space)
            run = drive(live, troubled(trade_off), trials, workers=6, seed=trials)
            restored, told = self.bound(space), self.bound(space)
            pending = [arch for _, arch in run.running]
            restored.restore(History.of(run.finished, 2, pending))
            told.tell(run.finished)
            told.reserve(pending)
            assert restored.known == told.known == live.known == trials
            assert restored.pending == told.pending == live.pending == len(pending)
            futures = [
                drive(
                    algorithm,
                    troubled(trade_off),
                    trials + self.trials(90),
                    workers=6,
                    run=Run(list(run.finished), list(run.running), list(run.asked)),
                )
                for algorithm in (live, restored, told)
            ]
            assert keys(futures[0].asked) == keys(futures[1].asked) == keys(futures[2].asked)

    def test_rebuilds_from_stored_rows_without_making_their_archs(self) -> None:
        live = self.bound(flat())
        run = drive(live, completed(trade_off), self.trials(400))
        made: list[int] = []

        class Watched(LazyArchs):
            def __getitem__(self, at: Any) -> Any:
                made.append(at)
                return super().__getitem__(at)

        history = History.of(run.finished, 2, [arch for _, arch in run.running])
        rows = Watched(flat(), [trial.arch.row() for trial in run.finished])
        restored = self.bound(flat())
        restored.restore(History(**{**vars(history), "archs": rows}))
        assert len(made) <= self.rebuilt
        assert keys(restored.ask(5)) == keys(live.ask(5))

    def test_history_may_hold_an_arch_twice(self) -> None:
        live, restored = self.bound(flat()), self.bound(flat())
        run = drive(live, completed(trade_off), 64)
        repeated = [trial for trial in run.finished for _ in range(2)]
        restored.restore(History.of(repeated, 2, [arch for _, arch in run.running]))
        assert keys(restored.ask(9)) == keys(live.ask(9))

    def test_described_options_make_it_again(self) -> None:
        algorithm = self.make(seed=3)
        options = json.loads(json.dumps(algorithm.describe()))
        again = make(**options)
        assert again.describe() == algorithm.describe()
        assert repr(again) == repr(algorithm)
        for each in (algorithm, again):
            each.bind(flat(), TWO)
        assert keys(algorithm.ask(10)) == keys(again.ask(10))

    # -- ends --------------------------------------------------------------------------------------------------------------

    @pytest.mark.parametrize("workers", [1, 5])
    def test_exhausts_a_small_space_and_says_so(self, workers: int) -> None:
        for space in (small(), flat(1), conditional() if workers == 1 and self.share == 1 else flat(2)):
            algorithm = self.bound(space)
            run = drive(algorithm, completed(trade_off), space.size, workers=workers)
            assert set(keys(run.asked)) == {arch.key for arch in space.enumerate()}
            algorithm.tell([completed(trade_off)(*task) for task in run.running])
            for _ in range(2):
                with pytest.raises(Exhausted, match=space.name):
                    algorithm.ask(3)

    def test_asks_for_more_than_is_left_get_what_is_left(self) -> None:
        algorithm = self.bound(flat(1))
        assert len(algorithm.ask(50)) == 4
        with pytest.raises(Exhausted):
            algorithm.ask(50)

    def test_a_space_of_one_arch_is_searched(self) -> None:
        algorithm = self.bound(Space(pg.Dict(a=1), name="closed"))
        assert len(algorithm.ask(2)) == 1
        with pytest.raises(Exhausted):
            algorithm.ask(1)

    # -- mistakes ----------------------------------------------------------------------------------------------------------

    def test_mistakes_get_one_sentence(self) -> None:
        name = self.make().name
        unbound = self.make()
        for call in (
            lambda: unbound.ask(1),
            lambda: unbound.tell([]),
            lambda: unbound.reserve([]),
            lambda: unbound.restore(History.of([], 2)),
            lambda: unbound.space,
        ):
            with pytest.raises(AlgorithmError, match=f"this {name} is not bound to a space yet"):
                call()
        with pytest.raises(AlgorithmError, match="given no objective"):
            unbound.bind(flat(), ())
        algorithm = self.bound(flat())
        with pytest.raises(AlgorithmError, match="bound to space 'flat-11' already"):
            algorithm.bind(flat(), TWO)
        for n in (0, -1, 1.5, True):
            with pytest.raises(AlgorithmError, match="it is a whole number, 1 or more"):
                algorithm.ask(n)  # type: ignore[arg-type]
        arch = algorithm.ask(1)[0]
        for values, state, sentence in [
            ((1.0,), "COMPLETED", r"has values \(1\.0,\); expected 2 numbers, for error, cost"),
            ((1.0, float("nan")), "COMPLETED", "has values"),
            (None, "COMPLETED", "is COMPLETED without values"),
            ((1.0, 2.0), "RUNNING", "is 'RUNNING'; only COMPLETED, INFEASIBLE, FAILED"),
        ]:
            with pytest.raises(AlgorithmError, match=sentence):
                algorithm.tell([Finished(0, arch, values, 0.0, state)])  # type: ignore[arg-type]
        with pytest.raises(AlgorithmError, match=f"is of space 'flat-3'; this {name} searches 'flat-11'"):
            algorithm.tell([Finished(0, next(iter(small().enumerate())), (1.0, 2.0))])
        with pytest.raises(AlgorithmError, match="knows 1 archs already and cannot be restored"):
            algorithm.restore(History.of([], 2))
        with pytest.raises(AlgorithmError, match=r"values of shape \(0, 3\); expected 2 columns"):
            self.bound(flat()).restore(History.of([], 3))


class LearnerConformance(AlgorithmConformance):
    """For algorithms that learn from what they are told: they must beat random search."""

    def _play(self, play: Callable[[Algorithm], float]) -> float:
        """p-value of a sign test of `play` against random search over 14 seeds; ties count for random search."""
        wins = 0
        for seed in range(14):
            rival = make("random", seed=seed)
            wins += play(self.make(seed)) > play(rival)
        return sign_test(wins, 14)

    def test_beats_random_search_on_a_front(self) -> None:
        def play(algorithm: Algorithm) -> float:
            algorithm.bind(flat(), TWO, ())
            run = drive(algorithm, completed(trade_off), 500, workers=3)
            return area(run.finished, (27.0, 34.0))  # a little beyond the worst values

        assert self._play(play) < 0.001

    def test_beats_random_search_on_one_objective(self) -> None:
        def play(algorithm: Algorithm) -> float:
            algorithm.bind(flat(), ONE, ())
            return -min(
                trial.values[0] for trial in drive(algorithm, completed(error_only), 300).finished if trial.values
            )

        assert self._play(play) < 0.001

    def test_finds_a_small_feasible_region(self) -> None:
        # The sum of 11 genes is at most 6 for 1 arch in 364: random search sees one or none in 300.
        def outcome(number: int, arch: Arch) -> Finished:
            error, cost = trade_off(arch)
            over = max(0.0, cost - 6) / 6
            return Finished(number, arch, None if over else (error, cost), over, "INFEASIBLE" if over else "COMPLETED")

        def play(algorithm: Algorithm) -> float:
            algorithm.bind(flat(), TWO, ())
            run = drive(algorithm, outcome, 300, workers=3)
            return float(sum(trial.state == "COMPLETED" for trial in run.finished))

        assert self._play(play) < 0.001


class CostlyConformance(AlgorithmConformance):
    """For algorithms whose proposals take milliseconds: what repeats others at greater length is slow."""

    @pytest.mark.parametrize(
        "objectives", [ONE, pytest.param(TWO, marks=pytest.mark.slow), (*TWO, Metric("third", "max"))]
    )
    def test_survives_failed_infeasible_and_late_trials(self, objectives: tuple[Metric, ...]) -> None:
        """Two of them wherever it is rebuilt."""
        super().test_survives_failed_infeasible_and_late_trials(objectives)

    @pytest.mark.parametrize(
        "trials", [0, 1, 19, 20, 21, 57, *(pytest.param(many, marks=pytest.mark.slow) for many in (100, 130))]
    )
    def test_rebuilds_from_history_to_the_same_proposals(self, trials: int) -> None:
        """Thousands of models, or integer programs, for the longest histories."""
        super().test_rebuilds_from_history_to_the_same_proposals(trials)


class ModelConformance(CostlyConformance, LearnerConformance):
    """For learners whose proposals take milliseconds and need few evaluations."""

    def test_beats_random_search_on_a_front(self) -> None:
        """In 60 evaluations, of which random search is given 180: five of five seeds, of which chance gives one in 32."""

        def play(algorithm: Algorithm, trials: int) -> float:
            algorithm.bind(flat(), TWO, ())
            return area(drive(algorithm, completed(trade_off), trials, workers=3).finished, (27.0, 34.0))

        for seed in range(5):
            assert play(self.make(seed), 60) > play(make("random", seed=seed), 180)

    def test_beats_random_search_on_one_objective(self) -> None:
        def best(algorithm: Algorithm, trials: int) -> float:
            algorithm.bind(flat(), ONE, ())
            run = drive(algorithm, completed(error_only), trials)
            return min(trial.values[0] for trial in run.finished if trial.values)

        for seed in range(5):
            assert best(self.make(seed), 50) < best(make("random", seed=seed), 150)

    def test_finds_a_small_feasible_region(self) -> None:
        """One arch in 364 is feasible; of 80 evaluations many are."""

        def outcome(number: int, arch: Arch) -> Finished:
            error, cost = trade_off(arch)
            over = max(0.0, cost - 6) / 6
            return Finished(number, arch, None if over else (error, cost), over, "INFEASIBLE" if over else "COMPLETED")

        for seed in range(3):
            algorithm = self.make(seed)
            algorithm.bind(flat(), TWO, ())
            run = drive(algorithm, outcome, 80, workers=3)
            assert sum(trial.state == "COMPLETED" for trial in run.finished) >= 10
