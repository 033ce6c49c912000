from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from nas.errors import RunnerError
from nas.placement import Needs
from nas.runners import Runner
from tests.conformance.runner import PoolConformance, RowSpace, double, drain, tasks, wait_for

ray = pytest.importorskip("ray")

pytestmark = [pytest.mark.ray, pytest.mark.filterwarnings("ignore::DeprecationWarning:ray.*")]


@pytest.fixture(scope="module", autouse=True)
def one_ray(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    """One Ray for the module: starting it takes seconds."""
    ray.init(address="local", num_cpus=2, include_dashboard=False, log_to_driver=False, object_store_memory=100 * 2**20)
    yield
    ray.shutdown()


SCRIPT = """
import pyglove as pg
from torch import nn
import nas

@nas.model
def line(width: int) -> nn.Module:
    return nn.Linear(width, 2)

class Params:
    def __call__(self, arch):
        return {"params": float(sum(p.numel() for p in arch.space.build(arch).parameters()))}

if __name__ == '__main__':
    space = nas.Space(line(width=pg.oneof([1, 2, 3])))
    study = nas.Study("s", space=space, objectives=["min params"], evaluators=[Params()], algorithm="exhaustive", store="s.db")
    print(study.run(3, workers=1, ray=True, progress=False).counts["COMPLETED"], "COMPLETED")
"""


class TestRay(PoolConformance):
    def make(self, evaluate: Any, **options: Any) -> Runner:
        from nas.runners import RayRunner

        return RayRunner(RowSpace(), evaluate, **options)

    def test_what_a_script_defines_travels_by_value(self) -> None:
        with self.make(lambda arch: {"half": arch[0] / 2}) as runner:
            runner.submit(tasks(3))
            assert drain(runner, 3)[2].measurements == {"half": 1.0}

    @pytest.mark.parametrize("guarded", [True, pytest.param(False, marks=pytest.mark.slow)])
    def test_a_script_runs_on_ray_as_it_is(self, tmp_path: Path, guarded: bool) -> None:
        """Its model functions and evaluators are its own; workers import it, which must not start another search."""
        script = tmp_path / "script.py"
        script.write_text(SCRIPT if guarded else SCRIPT.replace("if __name__ == '__main__':", "if True:"))
        address = ray.get_runtime_context().gcs_address
        environment = os.environ | {"PYTHONPATH": str(Path(__file__).parents[2]), "RAY_ADDRESS": address}
        command = [sys.executable, str(script)]
        done = subprocess.run(command, capture_output=True, text=True, check=False, cwd=tmp_path, env=environment)
        if guarded:
            assert done.returncode == 0, done.stderr
            assert done.stdout == "3 COMPLETED\n"
        else:
            assert "a script must call study.run() under if __name__ == '__main__':" in done.stderr.splitlines()[-1]

    def test_no_worker_is_killed_before_it_is_there(self, monkeypatch: pytest.MonkeyPatch) -> None:
        """Ray would forget the actor and keep its process, with the processor that it reserves."""
        runner = self.make(double)
        runner.launch()  # type: ignore[attr-defined]
        born = {member.handle: member.born for member in runner._members}  # type: ignore[attr-defined]
        killed, kill = [], ray.kill

        def note(handle: Any) -> None:
            killed.append(bool(ray.wait([born[handle]], timeout=0)[0]))
            kill(handle)

        monkeypatch.setattr(ray, "kill", note)
        runner.close()
        assert killed == [True, True]
        wait_for(lambda: ray.available_resources().get("CPU") == 2)

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
