"""Latencies in turns: kept, and of the networks in whatever order they are asked for."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from nas.compressing.turns import Beside, in_turns
from nas.errors import MetricError, StudyError
from nas.hardware import Device, idle
from nas.space import Space
from tests.compressing.nets import supernet
from tests.compressing.test_recipe import compressed
from tests.conformance.evaluator import EvaluatorConformance


class TestBeside(EvaluatorConformance):
    deterministic = False

    @pytest.fixture
    def evaluator(self, tmp_path: Path) -> Beside:
        supernet().save(tmp_path / "net")
        return Beside(tmp_path / "net", Device(), tmp_path / "times")

    @pytest.fixture
    def space(self) -> Space:
        return supernet().space


def test_a_latency_is_a_share_of_what_the_original_had_first(tmp_path: Path) -> None:
    net, times = supernet(), tmp_path / "times"
    clock = Beside(net, Device(), times)
    first = clock(net.space.largest)
    assert clock(net.space.largest) == first
    assert Beside(net, Device(), times, rounds=8)(net.space.largest) == first, "for every number of rounds"
    (file,) = times.iterdir()
    file.write_text('{"latency_ms": 1e9, "latency_spread_ms": 0.0, "latency_noisy": 0.0}')  # of a much slower time
    assert 1e6 < clock(net.space.smallest)["latency_ms"] < 1e11


def test_what_was_measured_is_read_again(tmp_path: Path) -> None:
    net = supernet()
    archs = [net.space.largest, net.space.smallest, net.space.largest]
    found = in_turns(net, archs, Device(), tmp_path / "times")
    assert set(found) == set(archs)
    assert all(ms > 0 for ms in found.values())
    assert in_turns(net, archs, Device(), tmp_path / "times") == found
    (file,) = (tmp_path / "times").iterdir()
    file.write_text(f'{{"{archs[0].key}": 1.0}}')  # damaged: of one network, where there are two
    again = in_turns(net, archs, Device(), tmp_path / "times")
    assert set(again) == set(archs)
    assert again[net.space.largest] != 1.0
    in_turns(net, archs, Device(batch=2), tmp_path / "times")
    assert len(list((tmp_path / "times").iterdir())) == 2, "another device has other times"


def test_a_folder_that_is_a_file_is_one_sentence(tmp_path: Path) -> None:
    (tmp_path / "times").write_text("")
    with pytest.raises(StudyError, match="times"):
        in_turns(supernet(), [supernet().space.smallest], Device(), tmp_path / "times")


@pytest.fixture
def work() -> Iterator[None]:
    """Two processes that are busy."""
    spinning = [subprocess.Popen([sys.executable, "-c", "while True: pass"]) for _ in range(idle.cores())]
    yield
    for one in spinning:
        one.kill()
        one.wait()


@pytest.mark.usefixtures("work")
def test_a_busy_machine_is_said_before_anything_is_measured(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def said(wait: str, budget: str, name: str, **options: Any) -> bool:
        monkeypatch.setenv("NAS_WAIT_S", wait)
        with pytest.raises(MetricError, match="smallest"):
            compressed(tmp_path / name, budget, progress=True, **options)
        return "latencies are measured beside other work of this machine" in capsys.readouterr().err

    assert not said("0", "latency_ms <= 0.000001%", "net", device="cpu"), "it does not look"
    assert said("0.1", "latency_ms <= 0.000001%", "net", device="cpu")
    assert said("0", "latency_ms <= 0.000001%", "net", device="cpu"), "its latencies are those of the first call"
    assert not said("0.1", "macs <= 0.000001%", "counts"), "nothing is measured"
