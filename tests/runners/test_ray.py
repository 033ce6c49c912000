from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest

from nas.errors import RunnerError
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
        with pytest.raises(RunnerError, match="2 workers need 2 GPU, this Ray has 0"), self.make(double, num_gpus=1):
            pass
        with pytest.raises(RunnerError, match="64 workers need 64 CPU"), self.make(double, workers=64):
            pass
