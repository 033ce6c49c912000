"""What every evaluator must do: named finite numbers, the same for the same arch wherever it runs, and nothing left changed."""

from __future__ import annotations

import functools
import json
import multiprocessing
import pickle
import random
from collections.abc import Iterator
from concurrent.futures import ProcessPoolExecutor
from typing import Any

import numpy as np
import pytest
import torch

from nas.evaluate import Evaluation, checked
from nas.space import Space
from tests.conformance.patience import PATIENCE_S


def evaluate_packed(packed: bytes) -> list[dict[str, float]]:
    """What a worker does: unpickle evaluator and archs, evaluate."""
    torch.set_num_threads(1)
    evaluator, archs = pickle.loads(packed)
    return [dict(evaluator(arch)) for arch in archs]


@functools.cache
def workers() -> ProcessPoolExecutor:
    """Two fresh processes, started once: importing torch takes seconds."""
    return ProcessPoolExecutor(2, mp_context=multiprocessing.get_context("spawn"))


class EvaluatorConformance:
    """Inherit, and give the fixtures `space` and `evaluator` (or override `same` for one that measures time)."""

    largest_pickle = 16_384
    """Bytes: an evaluator travels with every worker, so it holds no weights and no data."""
    deterministic = True

    @pytest.fixture
    def space(self) -> Space:
        raise NotImplementedError

    @pytest.fixture
    def evaluator(self) -> Any:
        raise NotImplementedError

    @pytest.fixture(autouse=True)
    def _one_thread(self) -> Iterator[None]:
        before = torch.get_num_threads()
        torch.set_num_threads(1)
        yield
        torch.set_num_threads(before)

    def archs(self, space: Space) -> list[Any]:
        draw = random.Random(0)
        return list(dict.fromkeys([space.largest, space.smallest, *(space.sample(draw) for _ in range(3))]))

    def same(self, first: list[dict[str, float]], second: list[dict[str, float]]) -> bool:
        if not self.deterministic:
            return [set(one) for one in first] == [set(one) for one in second]
        return first == second

    def test_it_yields_what_it_announces(self, evaluator: Any, space: Space) -> None:
        for arch in self.archs(space):
            found = checked(evaluator, evaluator(arch))
            assert tuple(found) == tuple(evaluator.metrics)

    def test_order_and_repetition_do_not_matter(self, evaluator: Any, space: Space) -> None:
        archs = self.archs(space)
        forward = [dict(evaluator(arch)) for arch in archs]
        backward = [dict(evaluator(arch)) for arch in reversed(archs)][::-1]
        assert self.same(forward, backward)

    def test_it_travels_small_and_says_the_same_in_another_process(self, evaluator: Any, space: Space) -> None:
        archs = self.archs(space)
        here = [dict(evaluator(arch)) for arch in archs]
        assert len(pickle.dumps(evaluator)) < self.largest_pickle
        there = workers().submit(evaluate_packed, pickle.dumps((evaluator, archs))).result(timeout=PATIENCE_S)
        assert self.same(here, there)

    def test_nothing_of_the_process_changes(self, evaluator: Any, space: Space) -> None:
        evaluator(space.largest)  # what is loaded once is loaded
        torch.manual_seed(3)
        before = (
            random.getstate(),
            np.random.get_state()[1].tolist(),
            torch.get_rng_state().tolist(),
            torch.get_num_threads(),
        )
        for arch in self.archs(space):
            evaluator(arch)
        after = (
            random.getstate(),
            np.random.get_state()[1].tolist(),
            torch.get_rng_state().tolist(),
            torch.get_num_threads(),
        )
        assert before == after
        assert torch.is_grad_enabled()
        assert not torch.is_inference_mode_enabled()

    def test_it_composes(self, evaluator: Any, space: Space) -> None:
        evaluation = Evaluation([evaluator, lambda arch: {"something_else": 1.0}])
        evaluation.check(space)
        assert set(evaluation(space.smallest)) == {*evaluator.metrics, "something_else"}

    def test_its_description_is_json_and_stable(self, evaluator: Any) -> None:
        described = json.dumps(evaluator.describe(), sort_keys=True)
        assert described == json.dumps(pickle.loads(pickle.dumps(evaluator)).describe(), sort_keys=True)

    def test_it_says_what_it_costs(self, evaluator: Any) -> None:
        assert evaluator.cost in ("cheap", "dear")
        assert isinstance(evaluator.exclusive, bool)
