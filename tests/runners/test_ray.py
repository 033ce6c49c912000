from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest

from nas.errors import RunnerError
from nas.placement import Needs
from nas.runners import Runner
from tests.conformance.runner import PoolConformance, RowSpace, double, drain, tasks

ray = pytest.importorskip("ray")

pytestmark = [pytest.mark.ray, pytest.mark.filterwarnings("ignore::DeprecationWarning:ray.*")]


@pytest.fixture(scope="module", autouse=True)
def one_ray(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    """One Ray for the module: starting it takes seconds."""
    ray.init(address="local", num_cpus=2, include_dashboard=False, log_to_driver=False, object_store_memory=100 * 2**20)
    yield
    ray.shutdown()


class TestRay(PoolConformance):
    def make(self, evaluate: Any, **options: Any) -> Runner:
        from nas.runners import RayRunner

        return RayRunner(RowSpace(), evaluate, **options)

    def test_what_a_script_defines_travels_by_value(self) -> None:
        with self.make(lambda arch: {"half": arch[0] / 2}) as runner:
            runner.submit(tasks(3))
            assert drain(runner, 3)[2].measurements == {"half": 1.0}

    def test_resources_nobody_has_are_refused(self) -> None:
        for options, says in (
            (
                {"needs": Needs(gpus=1)},
                r"2 workers need, each, 1 CPU, 1 GPU and no node .* \(its 1 node has 2 CPU, 0 GPU\)",
            ),
            ({"needs": Needs(gpus=0.5)}, "1 CPU, 0.5 GPU and no node"),
            (
                {"needs": Needs(resources=(("bench", 1.0),))},
                "1 bench and no node of this Ray has that .*2 CPU, 0 GPU, 0 bench",
            ),
            ({"workers": 64}, "64 workers need, each, 1 CPU and this Ray has room for 2 of them"),
        ):
            with pytest.raises(RunnerError, match=says), self.make(double, **options):
                pass
