from __future__ import annotations

import enum
import importlib
from typing import Any

import pyglove as pg
import pytest
from torch import nn

import nas
from nas.errors import SpaceError
from nas.space.source import python_source
from searchspaces import conv


class Point(pg.Object):
    x: int
    y: float = 0.5


class Size(enum.IntEnum):
    SMALL = 1


@pytest.mark.parametrize(
    "value",
    [
        Size.SMALL,
        None,
        True,
        3,
        -1.5,
        float("inf"),
        "it's",
        [1, [2]],
        (1,),
        (1, "a"),
        (),
        {"a": [1], "b c": None},
        nn.ReLU,
        len,
    ],
)
def test_source_evaluates_to_the_value(value: Any) -> None:
    expression, modules = python_source(value)
    scope = {module.split(".")[0]: importlib.import_module(module.split(".")[0]) for module in modules}
    for module in modules:
        importlib.import_module(module)
    assert eval(expression, scope) == value


def test_symbolic_objects_and_model_functions_are_named_in_full() -> None:
    assert python_source(Point(x=1)) == (f"{__name__}.Point(x=1, y=0.5)", [__name__])
    space = conv.space()
    expression, modules = python_source(space.smallest.value)
    assert modules == ["searchspaces.conv"]
    module = eval(expression, {"searchspaces": importlib.import_module("searchspaces")})()
    assert isinstance(module, nn.Module)


class Two(nn.Module):
    """Takes a call that builds a layer."""

    def __init__(self, layer: nn.Module) -> None:
        super().__init__()
        self.layer = layer


def test_a_wrapped_class_is_wrapped_again_at_any_depth() -> None:
    value = nas.model(Two)(layer=nas.model(nn.Linear)(in_features=2, out_features=3))
    expression, modules = python_source(value)
    assert expression.startswith(f"nas.model({__name__}.Two)(layer=nas.model(torch.nn.modules.linear.Linear)(")
    assert modules == ["nas", __name__, "torch.nn.modules.linear"]
    scope = {name.split(".")[0]: importlib.import_module(name.split(".")[0]) for name in modules}
    again = eval(expression, scope)
    assert again == value
    assert again().layer.out_features == 3


def test_what_nobody_can_import_is_refused() -> None:
    @nas.model
    def local(width: int) -> nn.Module:
        return nn.Linear(width, width)

    with pytest.raises(SpaceError, match="move it to the top level"):
        python_source(local(width=3))
    with pytest.raises(SpaceError, match="cannot be written as Python source"):
        python_source(object())
