"""Latencies in turns: kept, and of the networks in whatever order they are asked for."""

from __future__ import annotations

from pathlib import Path

import pytest

from nas.compressing.turns import in_turns
from nas.errors import StudyError
from nas.hardware import Device
from tests.compressing.nets import supernet


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
