"""The space of a plan, and what is made of it."""

from __future__ import annotations

import json
import pickle
import random
import subprocess
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

import nas
from nas.convert.elastic import ElasticSpace
from nas.convert.model import conditions
from nas.convert.plan import AtomPlan, Decision, Plan, Unit
from nas.convert.spelling import spelled
from nas.convert.template import Template
from nas.deploy import ElasticModel, export
from nas.errors import SpaceError
from nas.supernet.skeleton import build_skeleton
from nas.train.dropping import Dropped
from tests.convert import planned

TOKENS = torch.arange(10).reshape(2, 5) % 7
CASES: dict[str, Any] = {
    "mlp": (planned.Mlp, planned.mlp_plan, torch.randn(4, 3)),
    "cnn": (planned.Cnn, planned.cnn_plan, torch.randn(2, 1, 5, 5)),
    "transformer": (planned.Transformer, planned.transformer_plan, TOKENS),
    "bert": (planned.bert, planned.bert_plan, {"input_ids": TOKENS}),
}


def cnn(build: Any = None, plan: Plan | None = None) -> tuple[nn.Module, ElasticSpace]:
    model = planned.filled(planned.Cnn())
    return model, ElasticSpace(Template.of(model, build), planned.cnn_plan() if plan is None else plan)


def output(given: Any) -> Tensor:
    return given if isinstance(given, Tensor) else given.logits


def test_decisions_are_called_by_their_place_in_the_model():
    _, space = cnn()
    assert space.name == "Cnn"
    assert space.names == ("width", "blocks[0].hidden", "blocks[1].hidden", "blocks[0].keep", "blocks[1].keep")
    assert space.largest.choices == {
        "width": 4, "blocks[0].hidden": 8, "blocks[1].hidden": 8, "blocks[0].keep": True, "blocks[1].keep": True,
    }  # fmt: skip
    assert space.smallest.choices == {"width": 2, "blocks[0].keep": False, "blocks[1].keep": False}


def test_every_decision_has_a_name_that_filters_read():
    from nas.store.filters import column_key

    for path in ("encoder.layer.0.attention.heads", "layer.*.heads", "0.net.1", "*.hidden", "heads"):
        assert column_key(spelled(path)) == spelled(path)


def test_what_is_inside_a_unit_is_not_asked_where_it_is_left_out():
    _, space = cnn()
    assert space.size == 2 * 3 * 3
    with pytest.raises(SpaceError, match=r"blocks\[0\].hidden is not active"):
        space.arch(space.largest.choices | {"blocks[0].keep": False})


def test_units_inside_units_and_what_is_tied_to_the_outside():
    model: Any = planned.Transformer()
    plan = planned.transformer_plan()
    nested = replace(plan, units=(*plan.units, Unit("blocks.0.attention")))
    assert conditions(model, nested)["blocks[0].attention.heads"] == ("blocks[0].attention.keep", (True,))
    assert conditions(model, nested)["blocks[0].attention.keep"] == ("blocks[0].keep", (True,))
    model.outside = nn.Linear(8, 16)
    model.outside.weight = model.blocks[0].up.weight
    assert "blocks[0].hidden" not in conditions(model, plan)


def test_a_decision_with_one_choice_is_none():
    plan = planned.cnn_plan()
    closed = replace(plan, decisions=(Decision("width", "width", 4, (2,)), *plan.decisions[1:]), units=())
    _, space = cnn(plan=closed)
    assert "width" not in space.names
    assert space.build(space.largest).stem.out_channels == 2


@pytest.mark.parametrize("name", CASES)
def test_a_supernet_of_it_holds_the_model(name):
    make, plan, inputs = CASES[name]
    model = planned.filled(make())
    space = ElasticSpace(Template.of(model), plan())
    net = nas.Supernet(space, example=inputs, weights=model).eval()
    rng = random.Random(0)
    with torch.no_grad():
        whole = model(**inputs) if isinstance(inputs, dict) else model(inputs)
        assert torch.equal(output(net(inputs, space.largest)), output(whole))
        for arch in {space.smallest, *(space.sample(rng) for _ in range(4))}:
            taken = net.extract(arch)
            assert type(taken) is type(model)
            alone = taken(**inputs) if isinstance(inputs, dict) else taken(inputs)
            torch.testing.assert_close(output(alone), output(net(inputs, arch)), atol=1e-5, rtol=1e-5)
            assert net.params(arch) == sum(parameter.numel() for parameter in taken.parameters())
            assert net.macs(arch) <= net.macs(space.largest)


def test_subnets_train_on_the_weights_of_the_supernet():
    model, space = cnn()
    net = nas.Supernet(space, example=CASES["cnn"][2], weights=model)
    bound = net.bind(space.arch(space.largest.choices | {"width": 2}))
    output(bound(CASES["cnn"][2])).square().sum().backward()
    gradient = net.get_parameter("stem.weight").grad
    assert gradient is not None
    assert gradient[:2].abs().sum() > 0
    assert not gradient[2:].any()


def test_skeletons_have_no_weights_and_archs_built_for_real_those_of_the_model():
    model, space = cnn()
    assert all(parameter.is_meta for parameter in build_skeleton(space, space.smallest).parameters())
    built = space.build(space.smallest)
    assert torch.equal(built.stem.weight, model.stem.weight[:2])
    assert isinstance(built.blocks[0], Dropped)


def test_a_builder_gives_its_own_weights():
    _, space = cnn(build=nas.model(planned.Cnn)())
    first, second = space.build(space.largest), space.build(space.largest)
    assert not torch.equal(first.stem.weight, second.stem.weight)


def test_a_buffer_that_a_decision_cuts_is_held():
    plan = planned.transformer_plan()
    wide = replace(
        plan,
        decisions=(Decision("width", "width", 8, (4, 8)),),
        atoms={name: replace(atom, decision=None) for name, atom in plan.atoms.items()} | {"d": AtomPlan(8, "width")},
        tensors={"scale": (("d",),), "embed.weight": ((7,), ("d",))},
        units=(Unit("blocks.0", 1), Unit("blocks.1", 1)),
        numbers=(),
    )
    model: Any = planned.filled(planned.Transformer())
    space = ElasticSpace(Template.of(model), wide)
    arch = space.arch({"width": 4, "blocks[0].keep": False, "blocks[1].keep": False})
    net = nas.Supernet(space, weights=model).eval()
    assert torch.equal(net.state_dict()["scale"], model.scale)
    masked = model.embed.weight[:, :4] * model.scale[:4] @ model.embed.weight[:, :4].T
    torch.testing.assert_close(net(TOKENS, arch), masked[TOKENS])


# -- identity


def test_the_same_space_is_made_again_whatever_the_weights_the_builder_and_the_process():
    _, space = cnn()
    again = ElasticSpace(Template.of(planned.Cnn(), nas.model(planned.Cnn)()), planned.cnn_plan())
    assert again.fingerprint == space.fingerprint
    assert again.largest.key == space.largest.key
    script = "from tests.convert.test_model import cnn\nspace = cnn()[1]\nprint(space.fingerprint, space.smallest.key)"
    told = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True).stdout
    assert told.split() == [space.fingerprint, space.smallest.key]


def test_atoms_under_other_names_and_held_ones_in_other_pieces_make_the_same_archs():
    plan = planned.cnn_plan()
    renamed = Plan.from_json(json.loads(json.dumps(plan.to_json()).replace('"c"', '"channels"')))
    assert renamed != plan
    assert renamed.effect == plan.effect
    split = Plan(plan.decisions, {**plan.atoms, "k": AtomPlan(3)}, dict(plan.tensors), plan.numbers, plan.units)
    split.tensors["stem.weight"] = (("c",), (1,), ("k",), (3,))  # type: ignore[index]
    assert split.effect == plan.effect
    assert cnn(plan=renamed)[1].smallest.key == cnn()[1].smallest.key


def test_what_archs_are_is_part_of_their_identity():
    _, space = cnn()
    plan = planned.cnn_plan()
    keys = {space.largest.key}
    keys.add(ElasticSpace(space.template, replace(plan, units=plan.units[:1])).largest.key)
    other = {**plan.tensors, "head.weight": ((3,), (4,))}
    keys.add(ElasticSpace(space.template, replace(plan, tensors=other)).largest.key)
    strided = planned.Cnn()
    strided.stem.stride = (2, 2)
    keys.add(ElasticSpace(Template.of(strided), plan).largest.key)
    assert len(keys) == 4


def test_the_schema_is_small_and_json():
    _, space = cnn()
    text = json.dumps(space.schema())
    assert len(text) < 3000
    assert "running_mean" not in text
    with_more = replace(
        planned.cnn_plan(), decisions=(Decision("width", "width", 4, (1, 2, 4)), *space.plan.decisions[1:])
    )
    wider = ElasticSpace(space.template, with_more)
    assert wider.from_row(space.smallest.row(), space.schema()).choices == space.smallest.choices


def test_it_travels_to_other_processes():
    _, space = cnn()
    travelled = pickle.loads(pickle.dumps(space))
    assert isinstance(travelled, ElasticSpace)
    assert travelled.fingerprint == space.fingerprint
    assert travelled.plan == space.plan
    assert all(parameter.is_meta for parameter in build_skeleton(travelled, travelled.smallest).parameters())


# -- downstream


def test_a_saved_supernet_is_loaded_with_the_space_made_again(tmp_path: Path):
    model, space = cnn()
    net = nas.Supernet(space, example=CASES["cnn"][2], weights=model).eval()
    net.save(tmp_path / "net")
    again = nas.Supernet.load(tmp_path / "net", cnn()[1]).eval()
    with torch.no_grad():
        assert torch.equal(again(CASES["cnn"][2], cnn()[1].smallest), net(CASES["cnn"][2], space.smallest))


def digits_space(build: Any = None) -> tuple[nn.Module, ElasticSpace, Any]:
    task = nas.digits()
    torch.manual_seed(0)
    model = planned.Digits()
    return model, ElasticSpace(Template.of(model, build), planned.digits_plan()), task


def searched(folder: Path, build: Any, workers: int = 0, trials: int = 4, ray: bool = False) -> nas.Study:
    model, space, task = digits_space(build)
    net = nas.Supernet(space, example=task.example, weights=model)
    training = nas.Training(net, task, path=folder / "trained", steps=2)
    training.run(progress=False)
    study = nas.Study(
        "digits",
        space=space,
        objectives=["max accuracy", "min macs"],
        evaluators=[nas.Accuracy(training, task), nas.Costs(training)],
        algorithm=nas.RandomSearch(),
        training=training,
        store=folder / "nas.db",
        trials=trials,
    )
    study.run(workers=workers, ray=ray, progress=False)
    return study


def test_a_winner_is_loaded_by_its_class(tmp_path: Path):
    from nas.study.take_home import take_home

    study = searched(tmp_path, nas.model(planned.Digits)())
    winner = take_home(study, int(study.front().index[0]))
    winner.write(tmp_path / "winner")
    assert type(winner.module) is planned.Digits
    written = (tmp_path / "winner" / "source" / "tests_convert_planned.py").read_text()
    assert "class Digits(" in written
    assert "nas" not in written


def test_a_winner_whose_model_nobody_can_build_is_written_by_its_class_and_exported(tmp_path: Path):
    from nas.study.take_home import take_home

    study = searched(tmp_path, None)
    winner = take_home(study, int(study.front().index[0]))
    winner.write(tmp_path / "winner")
    done = export(winner.module, tmp_path / "winner.pt2", None, winner.example)
    assert done.difference < 1e-5


@pytest.mark.slow
def test_workers_get_the_model_without_its_weights(tmp_path: Path):
    study = searched(tmp_path, None, workers=1)
    assert set(study.trials().state) == {"COMPLETED"}


@pytest.mark.ray
@pytest.mark.filterwarnings("ignore::DeprecationWarning")
@pytest.mark.parametrize("build", [None, nas.model(planned.Digits)()])
def test_workers_of_ray_find_what_this_process_does(tmp_path: Path, build: Any):
    pytest.importorskip("ray")
    there = searched(tmp_path / "there", build, workers=1, ray=True).trials()
    here = searched(tmp_path / "here", build).trials()
    assert set(there.state) == {"COMPLETED"}
    columns = ["accuracy", "macs", "choices"]
    assert there[columns].to_dict("records") == here[columns].to_dict("records")


def test_a_winner_is_exported_to_onnx(tmp_path: Path):
    pytest.importorskip("onnxscript")
    model, space, task = digits_space()
    net = nas.Supernet(space, example=task.example, weights=model)
    done = export(net.extract(space.smallest), tmp_path / "net.onnx", None, task.example)
    assert done.difference < 1e-4


@pytest.mark.slow
def test_a_study_is_resumed_with_the_space_made_again(tmp_path: Path):
    searched(tmp_path, None, trials=2)
    study = searched(tmp_path, None, trials=4)
    assert len(study.trials()) == 4


def test_a_front_on_one_set_of_weights():
    model, space = cnn()
    net = nas.Supernet(space, example=CASES["cnn"][2], weights=model)
    archs = space.smallest, space.largest
    front = [(arch, {"accuracy": float(net.params(arch)), "params": float(net.params(arch))}) for arch in archs]
    elastic = ElasticModel(net, front, calibration=[torch.randn(8, 1, 5, 5)])
    assert elastic.switch(params=net.params(space.smallest)).arch == space.smallest
    assert torch.equal(elastic(CASES["cnn"][2]), elastic.extract()(CASES["cnn"][2]))
