"""What each decision alone loses, and networks chosen by a threshold of it."""

from __future__ import annotations

import math
from functools import cache
from pathlib import Path
from typing import Any

import pytest
import torch

import nas
from nas.compressing import Calibration, Sensitivities
from nas.errors import EvaluationError, NasError
from tests.compressing.nets import supernet, task
from tests.compressing.test_refusing import silent


@cache
def net() -> nas.Supernet:
    made = supernet()
    nas.reorder(made, by="magnitude")
    return made


@cache
def found() -> Sensitivities:
    return nas.sensitivities(net(), task(), batches=2, progress=False)


def test_every_candidate_of_every_decision_is_measured_with_all_else_whole() -> None:
    space, table = net().space, found().table
    assert found().metric == "divergence"
    for decision in space.decisions:
        rows = table[table["decision"] == decision.name]
        assert sorted(rows["value"]) == sorted(decision.candidates)
        whole = rows[rows["value"] == space.largest.choices[decision.name]]
        assert whole["lost"].tolist() == [0.0]
    narrow = space.arch({**space.largest.choices, "width": 8})
    row = table[(table["decision"] == "width") & (table["value"] == 8)].iloc[0]
    whole, alone = (Calibration(net(), task(), batches=2)(arch)["divergence"] for arch in (space.largest, narrow))
    assert row["lost"] == pytest.approx(alone - whole)
    assert row["macs"] == net().macs(narrow)
    assert (table["lost"] >= 0).all()
    assert "width: 16 0, 14 " in str(found())


def test_a_threshold_takes_the_cheapest_candidate_of_each_decision_that_loses_no_more() -> None:
    space, table = net().space, found().table
    threshold = float(table["lost"].median())
    arch = found().at(threshold)
    for decision in space.decisions:
        rows = table[(table["decision"] == decision.name) & (table["lost"] <= threshold)]
        cheapest = rows.sort_values("macs").iloc[0]["value"]
        assert arch.choices.get(decision.name, cheapest) == cheapest
    assert found().at(0.0) == space.largest
    costs = [net().macs(one) for one in found().path()]
    assert costs == sorted(costs, reverse=True)
    assert costs[0] == net().macs(space.largest)


@pytest.mark.parametrize("share", [0.3, 0.5, 0.75])
def test_the_network_of_a_budget_has_the_lowest_threshold_and_fills_it(share: float) -> None:
    bound = share * net().macs(net().space.largest)
    asked: list[nas.Arch] = []

    def cost(arch: nas.Arch) -> float:
        asked.append(arch)
        return net().macs(arch)

    arch = found().within(cost, bound)
    assert arch is not None
    assert net().macs(arch) <= bound
    unfilled = next(one for one in found().path() if net().macs(one) <= bound)
    assert net().macs(unfilled) <= net().macs(arch)
    assert len(asked) < len(found().alternatives)


def test_what_is_below_the_smallest_has_no_network() -> None:
    assert found().within(net().macs, 1.0) is None
    assert found().within(net().macs, 1e12) == net().space.largest


def test_measurements_are_kept_for_other_budgets_and_after_a_kill(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    kept = supernet()  # in memory alone
    calls: list[nas.Arch] = []
    measure = Calibration.__call__

    def counted(self: Calibration, arch: nas.Arch) -> dict[str, float]:
        calls.append(arch)
        if len(calls) == 9:
            raise KeyboardInterrupt
        return measure(self, arch)

    monkeypatch.setattr(Calibration, "__call__", counted)
    with pytest.raises(KeyboardInterrupt):
        nas.sensitivities(kept, task(), folder=tmp_path / "kept", batches=1, progress=False)
    first = nas.sensitivities(kept, task(), folder=tmp_path / "kept", batches=1, progress=False)
    assert len(calls) == len(set(calls)) + 1, "the one that was interrupted is measured again"
    count = len(calls)
    again = nas.sensitivities(kept, task(), folder=tmp_path / "kept", batches=1, progress=False)
    assert len(calls) == count
    assert again.table.equals(first.table)
    nas.sensitivities(kept, task(), folder=tmp_path / "kept", batches=2, progress=False)
    assert len(calls) > count, "other batches are other measurements"
    count = len(calls)
    kept.save(tmp_path / "net")
    saved = nas.Supernet.load(tmp_path / "net", kept.space)
    assert nas.sensitivities(saved, task(), folder=tmp_path / "kept", batches=1, progress=False).table.equals(
        first.table
    )
    assert len(calls) == count, "the same weights, wherever they are"
    with torch.no_grad():
        next(kept.parameters()).mul_(0.5)
    nas.sensitivities(kept, task(), folder=tmp_path / "kept", batches=1, progress=False)
    assert len(calls) > count, "other weights are other measurements"


def test_a_task_that_compares_no_outputs_is_measured_by_its_loss() -> None:
    losses = nas.sensitivities(net(), silent(), batches=1, progress=False)
    assert losses.metric == "calibration_loss"
    assert (losses.table["lost"] >= 0).all()


def test_spaces_with_other_decisions_are_measured(tmp_path: Path) -> None:
    del tmp_path
    from tests.train.family import blobs
    from tests.train.family import supernet as mlp

    made = mlp()
    made.trained = True
    both: Any = nas.sensitivities(made, blobs(), batches=1, progress=False)
    assert set(both.table["decision"]) == {"width", "depth"}
    smallest = both.within(made.params, made.params(made.space.smallest))
    assert smallest in (None, made.space.smallest)


def test_what_is_no_number_is_never_chosen(monkeypatch: pytest.MonkeyPatch) -> None:
    measure, broken = Calibration.__call__, [net().space.smallest]

    def some(self: Calibration, arch: nas.Arch) -> dict[str, float]:
        lost = arch in broken or arch.choices["width"] == 4
        return {"calibration_loss": math.nan, "divergence": math.nan} if lost else measure(self, arch)

    monkeypatch.setattr(Calibration, "__call__", some)
    few = nas.sensitivities(net(), task(), batches=1, progress=False)
    assert few.path()[-1].choices["width"] == 6
    broken.append(net().space.largest)
    with pytest.raises(EvaluationError, match="of the whole network on training batches is nan"):
        nas.sensitivities(net(), task(), batches=1, progress=False)


def test_wrong_arguments_are_told() -> None:
    with pytest.raises(NasError, match="threshold=-1"):
        found().at(-1.0)
    with pytest.raises(NasError, match="batches=0"):
        nas.sensitivities(net(), task(), batches=0)
