"""The cluster that RAY_ADDRESS names."""

from __future__ import annotations

import pytest

from nas.errors import RunnerError
from tests.conformance.runner import RowSpace, double

pytest.importorskip("ray")
pytestmark = [pytest.mark.ray, pytest.mark.filterwarnings("ignore::DeprecationWarning:ray.*")]


@pytest.mark.parametrize(
    ("address", "says"),
    [
        ("127.0.0.1:1", r"no Ray answers at 127.0.0.1:1 \(Connection refused\)"),
        ("head", "give host:port of the head"),
    ],
)
def test_a_cluster_that_is_not_there_is_one_sentence(address: str, says: str, monkeypatch: pytest.MonkeyPatch) -> None:
    from nas.runners import RayRunner

    monkeypatch.setenv("RAY_ADDRESS", address)
    with pytest.raises(RunnerError, match=says), RayRunner(RowSpace(), double):
        pass
