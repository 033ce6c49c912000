"""Blocks that are taught one by one, kept, and composed to networks."""

from __future__ import annotations

import errno
from functools import cache
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

import nas
from nas import files
from nas.compressing import Blocks, distilling
from nas.convert.elastic import ElasticSpace
from nas.errors import EvaluationError, Infeasible, SupernetError, TrainError
from nas.evaluate.subnets import OfSubnets
from tests.compressing.nets import Net, task, trained

NARROW = {"blocks[0].hidden": 8}


@cache
def net() -> nas.Supernet:
    """With ranks and fitted maps."""
    found = nas.Supernet(
        nas.elastic(trained(), task().example, linear=True, rank=(4,), granule=4),
        example=task().example,
        weights=trained(),
    )
    nas.fit_linear(found, task=task())
    return found


def library(folder: Path, **options: Any) -> Blocks:
    return Blocks(net(), task(), folder, **{"steps": 20, "lr": 3e-3, "batches": 2, **options})


def arch(**changes: Any) -> nas.Arch:
    return with_changes({name.replace("_0_", "[0]."): value for name, value in changes.items()})


def with_changes(changes: dict[str, Any]) -> nas.Arch:
    space = net().space
    assert isinstance(space, ElasticSpace)
    return space._with(changes)


def test_alternatives_are_single_choices_inside_of_a_block(tmp_path: Path) -> None:
    blocks = library(tmp_path)
    assert blocks.blocks == ["blocks.0", "blocks.1"]
    found = blocks.alternatives("blocks.0")
    assert {"blocks[0].keep": "linear"} in found
    assert {"blocks[0].keep": False} in found
    assert {"blocks[0].last.rank": 4} in found
    assert NARROW in found
    assert all(len(one) == 1 and next(iter(one)).startswith("blocks[0].") for one in found)
    single = blocks.replacements
    assert single[0] == net().space.largest
    assert len(single) == len(set(single)) == 1 + len(found) + len(blocks.alternatives("blocks.1"))


def test_what_is_left_out_has_the_error_of_giving_its_input(tmp_path: Path) -> None:
    row = library(tmp_path).learn(["blocks.0"], [{"blocks[0].keep": False}]).iloc[0]
    model = trained().eval()
    with torch.no_grad():
        given = [torch.relu(model.stem(inputs)) for inputs in task().calibration_inputs()]
        wanted = [model.blocks[0](x) for x in given]
    errors = [float((x - y).square().mean() / y.square().mean()) for x, y in zip(given, wanted, strict=True)]
    assert row["error"] == row["before"] == pytest.approx(sum(errors) / len(errors), rel=1e-4)


def test_teaching_lowers_the_error_of_what_can_learn(tmp_path: Path) -> None:
    rows = library(tmp_path).learn()
    untaught = rows["choices"].map(lambda choices: any(value in (False, "linear") for value in choices.values()))
    assert (rows[~untaught]["error"] < rows[~untaught]["before"]).all()
    assert (rows[untaught]["error"] == rows[untaught]["before"]).all()


def test_what_is_kept_is_not_taught_again(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*_: Any) -> None:
        raise AssertionError("something is taught again")

    first = library(tmp_path).learn(["blocks.0"])
    monkeypatch.setattr(distilling, "learn", refuse)
    assert library(tmp_path, batches=1).learn(["blocks.0"]).equals(first)
    with pytest.raises(AssertionError, match="taught again"):
        library(tmp_path).learn(["blocks.1"])


def test_other_options_weights_and_choices_are_kept_elsewhere(tmp_path: Path) -> None:
    one = library(tmp_path)
    module = net().extract(arch(blocks_0_hidden=8)).get_submodule("blocks.0")
    path = one._path("blocks.0", NARROW, module)
    assert library(tmp_path)._path("blocks.0", NARROW, module) == path
    others = [
        library(tmp_path, lr=1e-2)._path("blocks.0", NARROW, module),
        library(tmp_path, steps=21)._path("blocks.0", NARROW, module),
        one._path("blocks.0", {"blocks[0].hidden": 12}, module),
        one._path("blocks.0", NARROW, net().extract(arch(blocks_0_hidden=12)).get_submodule("blocks.0")),
    ]
    assert len({path, *others}) == 5


def test_one_pass_of_the_parent_teaches_all_alternatives_and_each_as_if_alone(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    calls = []
    run = distilling.Block.__call__
    monkeypatch.setattr(distilling.Block, "__call__", lambda self, inputs: calls.append(1) or run(self, inputs))
    both: list[dict[str, Any]] = [NARROW, {"blocks[0].hidden": 12}]
    together = library(tmp_path / "a").learn(["blocks.0"], both)
    looked, measured = 1, 2 * len(list(task().calibration_inputs()))
    assert len(calls) == looked + 20 + measured
    alone = library(tmp_path / "b").learn(["blocks.0"], both[1:])
    assert alone["error"][0] == together["error"][1]
    states = [library(tmp_path / name).extract(arch(blocks_0_hidden=12)).state_dict() for name in "ab"]
    assert all(torch.equal(tensor, states[1][name]) for name, tensor in states[0].items())


def test_a_composed_network_is_an_ordinary_one_and_loses_less(tmp_path: Path) -> None:
    blocks = library(tmp_path, steps=60)
    one = with_changes({**NARROW, "blocks[1].last.rank": 4})
    network = blocks.extract(one)
    assert type(network) is Net
    assert not network.training
    assert sum(each.numel() for each in network.parameters()) == net().params(one)
    measured, plain = blocks(one), nas.Calibration(net(), task(), batches=2)(one)
    assert measured["divergence"] < plain["divergence"]
    assert measured["calibration_loss"] < plain["calibration_loss"]
    rows = blocks.learn(["blocks.0"], [NARROW]), blocks.learn(["blocks.1"], [{"blocks[1].last.rank": 4}])
    assert measured["block_error"] == pytest.approx(sum(each["error"][0] for each in rows))
    assert blocks(net().space.largest)["divergence"] == 0.0


def test_the_workers_of_a_study_score_and_cost_every_alternative(tmp_path: Path) -> None:
    blocks = library(tmp_path, steps=5)
    archs = blocks.replacements
    study = nas.Study(
        "blocks",
        space=net().space,
        objectives=["min divergence", "min macs"],
        evaluators=[blocks, nas.Costs(net()), nas.Memory(net())],
        algorithm=nas.Given(archs),
        store=f"sqlite:///{tmp_path}/studies.db",
        trials=len(archs),
    )
    study.run(workers=0, progress=False)
    rows = study.trials()
    assert (rows["state"] == "COMPLETED").all()
    assert len(rows) == len(archs)
    assert {"divergence", "calibration_loss", "block_error", "params", "macs", "weights_mib"} <= set(rows)
    assert rows["block_error"].iloc[0] == 0.0


@pytest.mark.slow
def test_several_processes_share_the_folder(tmp_path: Path) -> None:
    saved = net()
    saved.save(tmp_path / "net")
    blocks = Blocks(tmp_path / "net", task(), tmp_path / "blocks", steps=5, lr=3e-3, batches=2)
    blocks.weights.get(saved.space)
    archs = blocks.replacements[:6]
    study = nas.Study(
        "blocks",
        space=saved.space,
        objectives=["min divergence"],
        evaluators=[blocks],
        algorithm=nas.Given(archs),
        store=f"sqlite:///{tmp_path}/studies.db",
        trials=len(archs),
    )
    study.run(workers=2, progress=False)
    assert (study.trials()["state"] == "COMPLETED").all()
    assert len(list((tmp_path / "blocks").glob("*.safetensors"))) == len(archs) - 1


def test_a_training_begins_with_a_composed_network(tmp_path: Path) -> None:
    blocks, one = library(tmp_path / "blocks"), arch(blocks_0_hidden=8)
    tuned = nas.Trained(task(), tmp_path / "tuned", epochs=1, start=blocks, lr=1e-4)
    assert tuned.folder(one) != nas.Trained(task(), tmp_path / "tuned", epochs=1, start=net(), lr=1e-4).folder(one)
    training = tuned.training(one)
    x = task().example
    assert torch.allclose(
        training.supernet.eval()(x, training.supernet.space.largest), blocks.extract(one)(x), atol=1e-6
    )
    assert tuned(one)["epochs"] == 1


class Nothing(OfSubnets):
    def __call__(self, arch: nas.Arch) -> dict[str, float]:
        del arch
        return {}


def test_a_training_cannot_begin_with_an_evaluator_without_weights(tmp_path: Path) -> None:
    with pytest.raises(EvaluationError, match="has no supernet to begin with"):
        nas.Trained(task(), tmp_path, epochs=1, start=Nothing())


class Attending(nn.Module):
    """A block that takes a mask by keyword and a list that it appends to, and gives a tuple."""

    def __init__(self) -> None:
        super().__init__()
        self.norm, self.wide, self.back = nn.LayerNorm(8), nn.Linear(8, 32), nn.Linear(32, 8)

    def forward(self, x: Tensor, *, mask: Tensor, kept: list[Tensor]) -> tuple[Tensor, None]:
        kept.append(x)
        assert len(kept) == 1, "what a call changes is fresh in each"
        return x + self.back(torch.relu(self.wide(self.norm(x)))) * mask, None


class Sequences(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.stem, self.block, self.head = nn.Linear(8, 8), Attending(), nn.Linear(8, 3)
        self.register_buffer("mask", torch.ones(1))

    def forward(self, x: Tensor) -> Tensor:
        x = self.stem(x)
        return self.head(self.block(x, mask=self.mask, kept=[])[0])  # type: ignore[no-any-return]


def test_blocks_may_take_and_give_more_than_a_tensor(tmp_path: Path) -> None:
    x = torch.randn(64, 8, generator=torch.Generator().manual_seed(0))
    data = nas.Classification((x, torch.arange(64) % 3), (x, torch.arange(64) % 3), batch=16, calibration=64)
    model = Sequences().eval()
    supernet = nas.Supernet(nas.elastic(model, x[:2]), example=x[:2], weights=model)
    rows = Blocks(supernet, data, tmp_path, steps=30, lr=1e-2).learn()
    narrower = rows[rows["choices"].map(lambda choices: "block.hidden" in choices)]
    assert len(narrower)
    assert (narrower["error"] < narrower["before"]).all()


# -- bad input


def test_what_is_not_inside_of_a_block_cannot_be_taught(tmp_path: Path) -> None:
    with pytest.raises(Infeasible, match=r"the arch has width = 8 and the original 16: what goes through all blocks"):
        library(tmp_path)(with_changes({"width": 8}))
    with pytest.raises(EvaluationError, match=r"there is no block 'block.0'; did you mean 'blocks.0'"):
        library(tmp_path).learn(["block.0"])
    with pytest.raises(EvaluationError, match="alternatives= are of one block, and 2 are asked for"):
        library(tmp_path).learn(alternatives=[NARROW])


def test_spaces_without_blocks_are_refused(tmp_path: Path) -> None:
    flat = nas.elastic(trained(), task().example, depth=False)
    with pytest.raises(EvaluationError, match="has no blocks that could be taught one by one: nothing can be left out"):
        Blocks(nas.Supernet(flat, example=task().example, weights=trained()), task(), tmp_path).learn()
    ordered = nas.order_depth(net(), loss=lambda network: network(task().example).square().mean())
    with pytest.raises(EvaluationError, match="one decision says how many there are"):
        Blocks(nas.Supernet(ordered, example=task().example, weights=trained()), task(), tmp_path).learn()
    foreign = nas.Supernet(nas.Space(nas.model(Net)(width=16)), example=task().example)
    with pytest.raises(EvaluationError, match=r"needs a supernet of a space of nas.elastic"):
        Blocks(foreign, task(), tmp_path).learn()


def test_a_full_disk_is_a_sentence_and_loses_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    library(tmp_path).learn(["blocks.0"], [NARROW])
    before = {path.name: path.read_bytes() for path in tmp_path.iterdir() if path.is_file()}

    def full(*_: Any, **__: Any) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    with monkeypatch.context() as patched:
        patched.setattr(files, "write", full)
        with pytest.raises(EvaluationError, match="No space left on device; make room and do it again"):
            library(tmp_path).learn(["blocks.0"])
    assert {path.name: path.read_bytes() for path in tmp_path.iterdir() if path.is_file()} == before
    assert len(library(tmp_path).learn(["blocks.0"])) == len(library(tmp_path).alternatives("blocks.0"))


def test_a_damaged_block_is_a_sentence(tmp_path: Path) -> None:
    library(tmp_path).learn(["blocks.0"], [NARROW])
    (path,) = tmp_path.glob("*.safetensors")
    path.write_bytes(path.read_bytes()[:-9])
    with pytest.raises(EvaluationError, match="holds no taught block .* remove the file, and it is taught again"):
        library(tmp_path)(arch(blocks_0_hidden=8))


def test_a_step_that_is_too_long_is_a_sentence(tmp_path: Path) -> None:
    with pytest.raises(TrainError, match=r"an alternative of block 'blocks.0' diverged at step \d+; give a lower lr="):
        library(tmp_path, lr=1e18).learn(["blocks.0"], [NARROW])
    assert not list(tmp_path.glob("*.safetensors"))


def test_maps_that_were_never_fitted_are_refused(tmp_path: Path) -> None:
    fresh = nas.Supernet(nas.elastic(trained(), task().example, linear=True), example=task().example, weights=trained())
    with pytest.raises(SupernetError, match="was never fitted"):
        Blocks(fresh, task(), tmp_path).learn(["blocks.0"])


def test_data_that_do_not_fit_are_a_sentence(tmp_path: Path) -> None:
    x = torch.randn(8, 5)
    data = nas.Classification((x, torch.arange(8) % 3), (x, torch.arange(8) % 3), batch=4, calibration=8)
    with pytest.raises(EvaluationError, match="Net does not take a batch of the task"):
        Blocks(net(), data, tmp_path).learn(["blocks.0"], [NARROW])


def test_the_error_of_a_block_with_batch_norm_is_that_of_the_network_that_is_extracted(tmp_path: Path) -> None:
    blocks = library(tmp_path)
    row = blocks.learn(["blocks.0"], [NARROW]).iloc[0]
    whole, inputs = distilling.Block(trained(), "blocks.0"), list(task().calibration_inputs())
    taught = blocks.extract(with_changes(NARROW)).get_submodule("blocks.0")
    assert [row["error"]] == pytest.approx(distilling.errors(whole, [taught], inputs), rel=1e-4)
    untaught = nas.Accuracy(net(), task()).extract(with_changes(NARROW)).get_submodule("blocks.0")
    assert [row["before"]] == pytest.approx(distilling.errors(whole, [untaught], inputs), rel=1e-4)
