"""How processes come by the module that is resized."""

from __future__ import annotations

import pickle
import subprocess
import sys
from fractions import Fraction
from typing import Any

import pyglove as pg
import pytest
import torch
from torch import nn

import nas
from nas.convert.template import Template, configured, digest
from nas.errors import SpaceError
from tests.convert import planned

net = nas.model(planned.Mlp)


def test_a_model_is_copied_without_its_weights_and_gives_them_where_it_was_made():
    model = planned.filled(planned.Cnn())
    template = Template.of(model)
    assert template.build is None
    assert all(parameter.is_meta for parameter in template.skeleton().parameters())
    assert torch.equal(template.skeleton().norm.running_mean, model.norm.running_mean)
    assert template.real() is model


def test_a_copy_that_travels_has_no_weights_and_says_so():
    model = planned.Cnn()
    model.stem = nn.Conv2d(1, 4, 100)  # 40,000 numbers
    content = pickle.dumps(Template.of(model))
    assert len(content) < 20_000
    travelled = pickle.loads(content)
    assert travelled == Template.of(model)
    assert travelled.skeleton().stem.weight.is_meta
    with pytest.raises(SpaceError, match="got the Cnn without its weights, .* give build="):
        travelled.real()


def test_a_builder_gives_skeletons_and_weights():
    template = pickle.loads(pickle.dumps(Template.of(planned.Mlp(), build=net())))
    assert template.skeleton().head.weight.is_meta
    assert not template.real().head.weight.is_meta
    assert template.real() is not template.real()


def test_any_function_without_arguments_is_a_builder():
    assert Template.of(planned.Mlp(), build=planned.Mlp).build is not None


def test_a_model_of_hugging_face_is_built_from_its_configuration():
    model = planned.bert()
    model.config._name_or_path = "somewhere"
    template = Template.of(model)
    assert template.build is not None
    assert type(template.real()) is type(model)
    assert configured(planned.Mlp()) is None


def test_fields_that_a_configuration_does_not_know_are_kept():
    model = planned.bert()
    model.config.gradient_checkpointing = False
    model.config.position_embedding_type = "absolute"
    template = pickle.loads(pickle.dumps(Template.of(model)))
    assert template.build is not None
    assert template.real().config.position_embedding_type == "absolute"


def test_a_changed_model_of_hugging_face_travels_as_it_is():
    model = planned.bert()
    model.classifier = nn.Linear(8, 3)
    assert Template.of(model).build is None


def test_what_is_frozen_is_part_of_what_a_builder_must_give():
    model = planned.bert()
    model.bert.embeddings.requires_grad_(False)
    template = Template.of(model)
    assert template.build is None
    assert not template.skeleton().bert.embeddings.word_embeddings.weight.requires_grad


class Reading(nn.Module):
    """Reads values of its parameters when it is made."""

    def __init__(self) -> None:
        super().__init__()
        self.layer = nn.Linear(2, 2)
        self.bound = float(self.layer.weight.detach().abs().max()) * 0 + 1


def test_a_builder_that_reads_values_is_run_for_real():
    template = Template.of(Reading(), build=nas.model(Reading)())
    assert template.skeleton().layer.weight.is_meta
    assert template.skeleton().bound == 1


class Counting(nn.Module):
    """With a table that is data, and a number."""

    def __init__(self, size: int = 3, persistent: bool = True, rate: float = 0.1) -> None:
        super().__init__()
        self.rate = rate
        self.layer = nn.Linear(2, 2)
        self.register_buffer("table", torch.zeros(size), persistent=persistent)


@pytest.mark.parametrize(
    ("build", "said"),
    [
        (
            net(first=5),
            r"'first' is a Linear|'first.weight' is \(6, 3\) of torch.float32, and 'first.weight' is \(5, 3\)",
        ),
        (nas.model(planned.Cnn)(), "'the model' is a Mlp, and 'the model' is a Cnn there"),
        (net(first=pg.oneof([5, 6])), "build= has open choices"),
        (nas.model(Fraction)(1), "gives a Fraction, and must give the model"),
        (nas.model(Fraction)("x"), "build= failed .ValueError: Invalid literal"),
        (3, "build= is a int, and must be a call"),
        (planned.Mlp(), "build= is a Mlp, and must be a call"),
    ],
)
def test_a_builder_of_something_else_is_refused(build: Any, said: str):
    with pytest.raises(SpaceError, match=said):
        Template.of(planned.Mlp(), build=build)


def test_numbers_of_the_model_must_be_those_of_its_builder():
    with pytest.raises(SpaceError, match="attribute 'rate' differs"):
        Template.of(Counting(rate=0.2), build=nas.model(Counting)())
    with pytest.raises(SpaceError, match="buffer 'table' has another shape"):
        Template.of(Counting(4), build=nas.model(Counting)())
    model = Counting(persistent=False)
    model.table.fill_(1)
    with pytest.raises(SpaceError, match="'table' has other numbers, and no checkpoint has it"):
        Template.of(model, build=nas.model(Counting)(persistent=False))


def test_a_persistent_buffer_that_is_not_the_builders_is_held():
    model = Counting()
    model.table.fill_(1)
    assert Template.of(model, build=nas.model(Counting)()).held == {"table"}
    assert Template.of(Counting(), build=nas.model(Counting)()).held == frozenset()


def test_templates_are_equal_where_the_models_are_whatever_their_weights():
    assert Template.of(planned.Mlp()) == Template.of(planned.Mlp(), build=net())
    assert Template.of(planned.Mlp()) != Template.of(planned.Mlp(first=5))
    assert hash(Template.of(planned.Mlp())) == hash(Template.of(planned.filled(planned.Mlp())))
    assert digest(nn.Dropout(0.1)) != digest(nn.Dropout(0.2))
    assert digest(planned.Mlp().double()) != digest(planned.Mlp())


@pytest.mark.slow  # tests/convert/test_model.py asks another process for a space
def test_the_digest_is_the_same_in_another_process():
    model = planned.Mlp()
    model.act = lambda x: x  # its repr would have an address
    script = (
        "from tests.convert import planned\nfrom nas.convert.template import digest\nmodel = planned.Mlp()\n"
        "model.act = lambda x: x\nprint(digest(model))"
    )
    told = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True).stdout
    assert told.strip() == digest(model)


class Closed(nn.Module):
    """Its activation is a function that holds a layer."""

    def __init__(self) -> None:
        super().__init__()
        layer = nn.Linear(2, 2)
        self.layer, self.act = layer, lambda x: x @ layer.weight

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.act(self.layer(x))  # type: ignore[no-any-return]


@pytest.mark.parametrize("build", [None, nas.model(Closed)()])
def test_what_a_copy_cannot_follow_is_refused(build: Any):
    with pytest.raises(
        SpaceError, match="'act.layer.weight' of Closed refers to a tensor of the model where a copy cannot"
    ):
        Template.of(Closed(), build)


def test_a_model_without_weights_has_skeletons_alone_unless_a_builder_gives_some():
    with torch.device("meta"):
        model = planned.Mlp()
    template = Template.of(model)
    assert template.skeleton().head.weight.is_meta
    with pytest.raises(SpaceError, match="'first.weight' of this Mlp is on the meta device, .* give build="):
        template.real()
    assert not Template.of(model, build=net()).real().head.weight.is_meta


def test_lazy_layers_are_refused():
    with pytest.raises(SpaceError, match="'weight' has no shape yet; call the model once"):
        Template.of(nn.LazyLinear(3))
