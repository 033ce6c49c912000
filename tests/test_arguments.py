"""Wrong arguments of every public constructor and function, chosen by the types that its signature announces.

Each argument in turn is given what it is not, all others being right.  What comes back is the right thing, or one sentence that
names the argument; never another exception, a file, or a hang.
"""

from __future__ import annotations

import functools
import inspect
import math
import warnings
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pyglove as pg
import pytest
import torch
from torch import nn

import nas
import nas.hardware
import nas.metrics
import nas.search
import nas.space
import nas.store
import nas.train
import nas.tune
from nas.checking import plain_scalar
from nas.errors import NasError

OBJECT, FUNCTION = object(), abs
VALUES: list[Any] = [
    None,
    True,
    0,
    -1,
    1.5,
    3.0,
    math.nan,
    math.inf,
    -math.inf,
    10**30,
    -(10**30),
    10**5000,
    1e308,
    "",
    "x",
    "\udcff",
    "a\0b",
    b"x",
    1j,
    [],
    ["\udcff"],
    [None],
    [math.nan],
    {},
    {1: 2},
    {"x": math.nan},
    (),
    {3},
    OBJECT,
    int,
    nas.Space,
    FUNCTION,
    np.int64(2),
    np.float32(0.5),
    np.bool_(True),
    np.array(2),
    np.array([1.0, math.nan]),
    torch.tensor(2),
]


class Net(nn.Module):
    """A linear layer of an elastic width."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.first = nn.Linear(4, width)
        self.head = nn.Linear(width, 2)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """(n, 2) logits of (n, 4)."""
        return self.head(torch.relu(self.first(x)))


@nas.model
def net(width: int) -> nn.Module:
    return Net(width)


@functools.cache
def space() -> nas.Space:
    return nas.Space(net(width=pg.oneof([2, 4])))


@functools.cache
def supernet() -> nas.Supernet:
    return nas.Supernet(space(), example=torch.zeros(1, 4))


@functools.cache
def own_data(name: str) -> dict[str, Any]:
    """Two splits for a task."""
    if name == "LanguageModel":
        return {"train": torch.arange(900), "valid": torch.arange(300), "context": 8}
    x = torch.randn(12, 3, generator=torch.Generator().manual_seed(0))
    targets = {"Regression": x.sum(1), "MultiLabel": x > 0, "Embedding": x}.get(name)
    if targets is None:
        return {
            "train": (x.view(12, 3, 1, 1), torch.arange(12).view(12, 1, 1) % 3),
            "valid": (x.view(12, 3, 1, 1) + 1, torch.arange(12).view(12, 1, 1) % 3),
        }
    return {"train": (x, targets), "valid": (x + 1, targets)}


def task() -> nas.Classification:
    data = torch.zeros(8, 4), torch.zeros(8, dtype=torch.long)
    return nas.Classification(train=data, valid=data, batch=4)


def evaluate(arch: nas.Arch) -> dict[str, float]:
    return {"score": float(arch.choices["width"])}


def cost(arch: nas.Arch) -> float:
    return float(arch.choices["width"])


def teacher() -> nn.Module:
    return Net(4)


# What is called, and arguments that are right.
CASES: dict[str, tuple[Callable[..., Any], Callable[[], dict[str, Any]]]] = {
    "Space": (nas.Space, lambda: {"value": {"a": pg.oneof([1, 2])}, "name": "s", "version": 1, "active_when": {}}),
    "Supernet": (nas.Supernet, lambda: {"space": space(), "example": torch.zeros(1, 4), "seed": 0}),
    "Layout": (nas.Layout, lambda: {"pattern": "(a b) in", "a": 2}),
    "CentreCrop": (nas.CentreCrop, lambda: {"dims": [1, 2]}),
    "KernelTransform": (nas.KernelTransform, lambda: {"sizes": (7, 5, 3)}),
    "Training": (
        nas.Training,
        lambda: {
            "supernet": supernet(),
            "task": task(),
            "steps": 2,
            "lr": 0.1,
            "weight_decay": 0.1,
            "warmup": 1,
            "floor": 0.1,
            "schedule": "cosine",
            "accumulate": 2,
            "best": "max accuracy",
            "patience": 2,
            "min_delta": 0.1,
            "clip": 1.0,
            "optimizer": "adamw",
            "optimizer_options": {"betas": (0.9, 0.99)},
            "device": "cpu",
            "precision": "auto",
            "divergence": 10.0,
            "seed": 0,
            "sampler": nas.Sandwich(),
            "loss": nas.Labels(),
        },
    ),
    "Classification": (
        nas.Classification,
        lambda: {"train": task().train, "valid": task().valid, "test": None, "batch": 4, "smoothing": 0.0, "seed": 0},
    ),
    **{
        name: (
            getattr(nas, name),
            lambda name=name: {**own_data(name), "batch": 4, "seed": 0, "calibration": 8, "num_workers": 0},
        )
        for name in ("Regression", "MultiLabel", "Segmentation", "LanguageModel", "Embedding")
    },
    "Unlabelled": (
        nas.Unlabelled,
        lambda: {"task": task(), "inputs": task().train[0], "batch": 4, "seed": 0, "augment": None, "calibration": 4},
    ),
    "digits": (nas.digits, lambda: {"batch": 64, "valid": 297, "test": 500, "seed": 0, "smoothing": 0.0, "shift": 0}),
    "Uniform": (nas.Uniform, lambda: {"n": 1}),
    "Sandwich": (nas.Sandwich, lambda: {"n": 2}),
    "Bucketed": (nas.Bucketed, lambda: {"cost": cost, "width": 1.0, "n": 1, "tilt": 1.0}),
    "Progressive": (nas.Progressive, lambda: {"phases": [nas.Phase(2)], "readers": ()}),
    "Phase": (nas.Phase, lambda: {"steps": 2, "candidates": {}, "n": 1, "sort": False, "lr": 0.5}),
    "AllGranularities": (nas.AllGranularities, lambda: {"axes": ("dim",), "elastic": False}),
    "FixedList": (nas.FixedList, lambda: {"choices": [{"width": 2}], "n": 1}),
    "TwoDimensional": (nas.TwoDimensional, lambda: {"depth": "depth", "dim": "dim"}),
    "Granular": (nas.Granular, lambda: {"kl": 0.1, "temperature": 2.0, "axis": "dim", "weights": {2: 1.0}}),
    "Teacher": (nas.Teacher, lambda: {"module": teacher(), "weight": 0.5, "temperature": 1.0, "divergence": None}),
    "InPlace": (nas.InPlace, lambda: {"temperature": 1.0, "labels": 0.1, "divergence": None}),
    "Interpolated": (
        nas.Interpolated,
        lambda: {"module": teacher(), "steps": 2, "start": 0.4, "weight": 0.5, "pace": 0.1},
    ),
    "Ramped": (nas.Ramped, lambda: {"loss": nas.InPlace(), "start": 1, "steps": 2, "least": 0.1}),
    "Taylor": (nas.Taylor, lambda: {"absolute": True}),
    "KL": (nas.KL, lambda: {"direction": "forward", "temperature": 1.0}),
    "StandardizedKL": (nas.StandardizedKL, lambda: {"temperature": 2.0}),
    "BalancedKL": (nas.BalancedKL, lambda: {"temperature": 1.0}),
    "AdaptiveAlpha": (nas.AdaptiveAlpha, lambda: {"negative": -1.0, "positive": 1.0, "clip": 5.0}),
    "Binary": (nas.Binary, lambda: {"temperature": 1.0}),
    "SoftSimilarities": (nas.SoftSimilarities, lambda: {"temperature": 0.05}),
    "DIST": (nas.DIST, lambda: {"beta": 1.0, "gamma": 1.0, "temperature": 1.0}),
    "Features": (
        nas.Features,
        lambda: {"layers": "first", "compare": nas.RKD(), "weight": 1.0, "teacher": None},
    ),
    "NormAndDirection": (
        nas.NormAndDirection,
        lambda: {"layer": "first", "teacher": teacher(), "weight": 1.0, "teacher_layer": None},
    ),
    "Hint": (nas.Hint, lambda: {"projection": "learned"}),
    "RKD": (nas.RKD, lambda: {"distance": 25.0, "angle": 50.0}),
    "TeacherOutputs": (nas.TeacherOutputs, lambda: {"folder": "outputs", "limit_gib": 1.0, "top": 2}),
    "Snapshots": (nas.Snapshots, lambda: {"steps": (1, 2), "temperature": 1.0, "labels": 0.1}),
    "as_supernet": (nas.as_supernet, lambda: {"module": teacher(), "example": torch.zeros(1, 4), "name": "fixed"}),
    "Policy": (
        nas.Policy,
        lambda: {
            "cost": FUNCTION,
            "target": 3.0,
            "metric": "macs",
            "reward": nas.AbsoluteReward(),
            "quality": "max accuracy",
            "estimator": nas.ScoreFunction(),
            "share": 0.2,
            "batch": 2,
            "batches": 1,
            "warmup": 0.5,
            "every": 1,
            "follow": 1,
            "lr": 0.1,
            "betas": (0.0, 0.9),
            "weight_decay": 0.0,
            "growth": 1.0,
            "entropy": 0.0,
            "bins": 4,
        },
    ),
    "AbsoluteReward": (nas.AbsoluteReward, lambda: {"weight": -0.1}),
    "LinearReward": (nas.LinearReward, lambda: {"weight": -0.1}),
    "Widened": (nas.Widened, lambda: {"sampler": nas.Sandwich(), "steps": 4}),
    "ProductReward": (nas.ProductReward, lambda: {"exponent": -0.1, "below": 0.0}),
    "ScoreFunction": (nas.ScoreFunction, lambda: {"draws": 2, "baseline": 0.9}),
    "Flip": (nas.Flip, lambda: {"draws": 2, "flips": 1}),
    "MaskGates": (
        nas.MaskGates,
        lambda: {"draws": 2, "temperature": (1.0, 0.1), "exact": False, "others": nas.Flip(2)},
    ),
    "Mixture": (nas.Mixture, dict),
    "PolicySearch": (nas.PolicySearch, lambda: {"logits": {"width": [0.0, 1.0]}, "bins": 4, "seed": 0}),
    "Delayed": (nas.Delayed, lambda: {"sampler": nas.Sandwich(), "start": 1}),
    "Fading": (nas.Fading, lambda: {"sampler": nas.Sandwich(), "steps": 2, "start": 1}),
    "Attentive": (
        nas.Attentive,
        lambda: {"score": cost, "cost": cost, "width": 1.0, "best": True, "k": 3, "n": 2, "pool": 10},
    ),
    "BatchScore": (nas.BatchScore, lambda: {"supernet": supernet(), "task": task()}),
    "SortedExits": (nas.SortedExits, lambda: {"exits": (1, 2), "n": 1, "elastic": False, "decision": "depth"}),
    "ExitMean": (nas.ExitMean, lambda: {"distill": 0.1, "temperature": 1.0}),
    "Device": (
        nas.Device,
        lambda: {"name": "cpu", "threads": 1, "batch": 1, "dtype": "float32", "runtime": "torch"},
    ),
    "Command": (
        nas.Command,
        lambda: {"name": "phone", "command": "bench {model}", "format": "onnx", "batch": 1, "timeout_s": 1.0},
    ),
    "Custom": (nas.Custom, lambda: {"name": "phone", "function": FUNCTION, "batch": 1}),
    "Accuracy": (nas.Accuracy, lambda: {"source": supernet(), "task": task(), "split": "valid", "calibrate": True}),
    "Costs": (nas.Costs, lambda: {"source": supernet()}),
    "Latency": (
        nas.Latency,
        lambda: {"source": supernet(), "device": nas.Device(), "repeats": 1, "budget_s": 0.1},
    ),
    "Evaluation": (nas.Evaluation, lambda: {"evaluators": [evaluate], "constraints": []}),
    "needs": (
        nas.needs,
        lambda: {"evaluator": evaluate, "cpus": 1.0, "gpus": 0.0, "resources": None, "whole_node": False, "workers": 1},
    ),
    "evaluator": (
        nas.evaluator,
        lambda: {
            "metrics": ("score",),
            "cost": "dear",
            "exclusive": False,
            "source": supernet(),
            "task": task(),
            "split": "valid",
            "calibrate": True,
            "device": None,
        },
    ),
    "Gated": (nas.Gated, lambda: {"evaluator": evaluate, "where": "params <= 3"}),
    "Once": (nas.Once, lambda: {"evaluator": evaluate, "function": str, "folder": "nowhere"}),
    "Trained": (
        nas.Trained,
        lambda: {"task": task(), "path": "nowhere", "epochs": 1, "device": "cpu", "seed": 0, "lr": 0.1},
    ),
    "Function": (nas.Function, lambda: {"task": task(), "samples": 1, "seed": 0, "weights": True}),
    "Proxies": (
        nas.Proxies,
        lambda: {"names": ["grad_norm"], "task": task(), "batch": 4, "seed": 0, "teacher": None, "device": "cpu"},
    ),
    "Learned": (nas.Learned, lambda: {"space": space(), "device": "x", "regressor": "ridge", "features": "onehot"}),
    "LookUp": (
        nas.LookUp,
        lambda: {
            "space": space(),
            "device": "x",
            "example": torch.zeros(1, 4),
            "blocks": (),
            "table": {},
            "line": True,
        },
    ),
    "FewShot": (nas.FewShot, lambda: {"space": space(), "device": "x", "known": (), "seed": 0}),
    "Metric": (nas.Metric, lambda: {"name": "score", "goal": "max", "unit": ""}),
    "Constraint": (nas.Constraint, lambda: {"metric": "score", "op": "<=", "bound": 1.0}),
    "Study": (
        nas.Study,
        lambda: {
            "name": "s",
            "space": space(),
            "objectives": ["max score"],
            "evaluators": [evaluate],
            "constraints": ["score >= 0"],
            "algorithm": "random",
            "training": None,
            "store": "nowhere.db",
            "trials": 1,
            "max_failures": 1,
        },
    ),
    "RandomSearch": (nas.RandomSearch, lambda: {"seed": 0}),
    "RegularizedEvolution": (nas.RegularizedEvolution, lambda: {"population": 10, "sample": 5, "seed": 0}),
    "NSGA2": (
        nas.NSGA2,
        lambda: {"population": 10, "crossover": 0.5, "mutation": 0.5, "seed": 0, "synchronous": False},
    ),
    "Surrogate": (nas.Surrogate, lambda: {"initial": 3, "candidates": 20, "exact": 8, "seed": 0}),
    "Compose": (
        nas.Compose,
        lambda: {"base": "largest", "alternatives": 3, "candidates": 20, "exact": 8, "seed": 0},
    ),
    "MultiFidelity": (
        nas.MultiFidelity,
        lambda: {"low": 1.0, "initial": 3, "candidates": 20, "exact": 8, "seed": 0},
    ),
    "DNASearch": (nas.DNASearch, lambda: {"generator": None, "penalty": 1.0, "seed": 0}),
    "OptunaSearch": (
        nas.OptunaSearch,
        lambda: {"sampler": "tpe", "options": None, "history": None, "ordered": False, "seed": 0},
    ),
    "LINAS": (
        nas.LINAS,
        lambda: {"population": 5, "inner": 10, "alphas": [1.0], "costs": [1.0], "history": 10, "seed": 0},
    ),
    "ConcurrentNAS": (nas.ConcurrentNAS, lambda: {"shared": 1, "population": 5, "inner": 10, "history": 10, "seed": 0}),
    "LocalSearch": (nas.LocalSearch, lambda: {"start": 5, "seed": 0}),
    "QualityDiversity": (nas.QualityDiversity, lambda: {"buckets": 5, "start": 5, "crossover": 0.5, "seed": 0}),
    "MCTS": (nas.MCTS, lambda: {"exploration": 0.1, "bins": 5, "bisect": True, "seed": 0}),
    "SMBO": (
        nas.SMBO,
        lambda: {
            "samples": 5,
            "exploration": 0.1,
            "interval": 4,
            "tree": True,
            "bisect": True,
            "bound": 1.0,
            "penalty": 1.0,
            "history": 10,
            "seed": 0,
        },
    ),
    "REINFORCE": (
        nas.REINFORCE,
        lambda: {"rate": 0.5, "batch": 4, "baseline": 0.9, "controllers": None, "bins": 5, "seed": 0},
    ),
    "RoBoT": (
        nas.RoBoT,
        lambda: {"proxies": FUNCTION, "explore": 5, "pool": 10, "weights": 10, "kappa": 2.0, "seed": 0},
    ),
    "Transfer": (nas.Transfer, lambda: {"algorithm": "random", "from_": None, "horizon": 10, "seed": 0}),
    "tune.ParetoHalving": (
        nas.tune.ParetoHalving,
        lambda: {"objectives": ["max score"], "epochs": 9, "grace": 1, "factor": 3},
    ),
    "tune.Rungs": (nas.tune.Rungs, lambda: {"epochs": 9, "grace": 1, "factor": 3}),
    "tune.Searcher": (
        nas.tune.Searcher,
        lambda: {"space": space(), "algorithm": "random", "objectives": ["max score"], "constraints": []},
    ),
    "train.Dropped": (nas.train.Dropped, lambda: {"kind": "block", "extras": None}),
    "train.Schedule": (
        nas.train.Schedule,
        lambda: {"lr": 0.1, "steps": 3, "warmup": 1, "floor": 0.1, "kind": "linear"},
    ),
    "train.Shift": (nas.train.Shift, lambda: {"pixels": 1, "fill": 0.0}),
    "hardware.parse_device": (nas.hardware.parse_device, lambda: {"text": "cpu,threads=1"}),
    "store.open_store": (functools.partial(nas.store.open_store, create=False), lambda: {"url": "nowhere.db"}),
    "elastic": (
        nas.elastic,
        lambda: {
            "model": nn.Sequential(nn.Linear(4, 16), nn.ReLU(), nn.Linear(16, 2)),
            "example": torch.zeros(1, 4),
            "width": (0.5, 1.0),
            "granule": 4,
            "depth": False,
            "heads": True,
            "head_dim": False,
            "share": "none",
            "mode": "class",
            "soft": False,
            "include": (),
            "exclude": (),
            "build": None,
            "check": False,
            "name": "perceptron",
        },
    ),
    "Budget": (nas.Budget, lambda: {"metric": "params", "bound": 3.0, "share": None}),
    "Blocks": (nas.Blocks, lambda: {"source": supernet(), "task": task(), "folder": "blocks", "batches": 2}),
    "Calibration": (nas.Calibration, lambda: {"source": supernet(), "task": task(), "batches": 2}),
    "Memory": (nas.Memory, lambda: {"source": supernet()}),
    "Given": (nas.Given, lambda: {"archs": [{"width": 2}]}),
    "Remote": (nas.Remote, lambda: {"url": "http://127.0.0.1:1", "token": "t", "patience_s": 1.0}),
    "search.make": (nas.search.make, lambda: {"name": "nsga2", "population": 10}),
}
# Public names without arguments of their own to check, and why.
ELSEWHERE = {
    "sequential": "takes modules under any name; tests/supernet/test_naming.py",
    "Evaluator": "the base class of evaluators, which takes nothing",
    "__version__": "a string",
    "model": "takes anything that can be called; tests/space/test_model.py",
    "Arch": "made by a space",
    "Task": "Task.of takes what nas.train.Supervised does; tests/train/test_given.py",
    "averaged": "takes any function",
    "Store": "made by open_store",
    "Infeasible": "raised by users, and judged where it is caught",
    "NasError": "an exception",
    "Source": "made by a store",
    "Labels": "no arguments",
    "Corner": "no arguments",
    "Hard": "no arguments",
    "MeanSquares": "no arguments",
    "Similarities": "no arguments",
    "AttentionTransfer": "no arguments",
    "SimilarityPreserving": "no arguments",
    "Exhaustive": "no arguments",
    "Magnitude": "no arguments",
    "MeanActivation": "no arguments",
    "Activations": "no arguments",
    "Fisher": "no arguments",
    "GroupFisher": "no arguments",
    "HESSO": "no arguments",
    "Score": "for users to inherit; tests/supernet/test_scores.py",
    "reorder": "works at once; below",
    "check": "works at once; tests/supernet/test_findings.py",
    "compress": "works at once; tests/compressing/test_recipe.py",
    "profile": "works at once; tests/compressing/test_profiling.py",
    "factorize": "works at once; tests/supernet/test_factorize.py",
    "fit_linear": "works at once; tests/supernet/test_fitting.py",
    "sensitivities": "works at once; tests/compressing/test_sensitivity.py",
    "order_depth": "works at once; tests/convert/test_ordering.py",
    "train_modules": "works at once; tests/train/test_modules.py",
    "python_corpus": "reads files; below",
    "text_files": "reads files; below",
    "image_folder": "reads files; below",
    "measure": "works at once; below",
    "export": "works at once; below",
    "Residuals": "takes modules; tests/supernet/test_residuals.py",
    "Fade": "takes modules; tests/train/test_fading.py",
    "RepNorm": "a layer, as PyTorch's are; tests/train/test_fading.py",
    "grow": "works at once; tests/supernet/test_grow.py",
    "fold": "works at once; tests/deploy/test_folding.py",
    "Predicted": "reads files; tests/test_evaluate.py",
    "ElasticModel": "works at once; tests/deploy/test_elastic.py",
    "ElasticSpace": "made by elastic",
    "Example": "checks the form of inputs; tests/supernet/test_inputs.py",
}
# What the sentence calls an argument, where it is not the argument's own name.
CALLED: dict[tuple[str, str], str] = {
    ("OptunaSearch", "options"): "option",
    ("tune.ParetoHalving", "objectives"): "objective",
    ("tune.Searcher", "objectives"): "objective",
    ("Proxies", "names"): "named",
    ("Transfer", "from_"): "a source has",
    ("Space", "value"): "value of a space",
    ("Evaluation", "evaluators"): "evaluator",
}


def test_every_public_name_is_tried_or_said_to_be_elsewhere() -> None:
    assert set(nas.__all__) == {name for name in CASES if "." not in name} | set(ELSEWHERE)


def _arguments() -> Iterator[tuple[str, str]]:
    for name, (_, given) in CASES.items():
        for argument in given():
            yield name, argument


@pytest.fixture(autouse=True)
def _nothing_is_written(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    monkeypatch.chdir(tmp_path)
    yield
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(("name", "argument"), list(_arguments()))
def test_a_wrong_argument_is_refused_by_name_or_taken(name: str, argument: str) -> None:
    faults = _faults(name, argument, VALUES)
    assert not faults, "\n".join(faults)


@pytest.mark.slow
@pytest.mark.parametrize("name", list(CASES))
def test_wrong_items_are_refused_by_name_or_taken(name: str) -> None:
    nested = [make(value) for value in VALUES for make in (lambda v: [v], lambda v: (v, v), lambda v: {"x": v})]
    faults = [fault for argument in CASES[name][1]() for fault in _faults(name, argument, nested)]
    assert not faults, "\n".join(faults)


def _faults(name: str, argument: str, values: list[Any]) -> list[str]:
    """What is wrong with what comes back for each value of an argument."""
    target, given = CASES[name]
    hint = str(inspect.signature(target).parameters[argument].annotation) if argument in _parameters(target) else ""
    faults = []
    for value in values:
        try:
            with warnings.catch_warnings():
                warnings.simplefilter("error")
                target(**{**given(), argument: value})
        except NasError as error:
            named = [argument.rstrip("_"), argument.rstrip("s"), CALLED.get((name, argument), argument)]
            named += [repr(value)] if isinstance(value, str) else []
            if not any(text in str(error) for text in named):
                faults.append(f"{_text(value)}: the sentence does not name it: {error}")
        except BaseException as error:
            faults.append(f"{_text(value)}: {type(error).__name__}: {str(error)[:150]}")
        else:
            if _is_plainly_wrong(hint, value):
                faults.append(f"{_text(value)}: taken for {hint}")
    return faults


def test_right_arguments_are_taken() -> None:
    for name, (target, given) in CASES.items():
        if name != "store.open_store":
            target(**given())


def test_misspelled_arguments_are_answered_with_the_right_one() -> None:
    for target, given in CASES.values():
        for argument in _parameters(target):
            if len(argument) > 3 and argument in given() and not _is_open(target):
                arguments = given()
                arguments[f"{argument}{argument[-1]}"] = arguments.pop(argument)
                with pytest.raises(NasError, match=f"did you mean '{argument}'"):
                    target(**arguments)


def _parameters(target: Callable[..., Any]) -> list[str]:
    return [
        one.name
        for one in inspect.signature(target).parameters.values()
        if one.kind in (one.POSITIONAL_OR_KEYWORD, one.KEYWORD_ONLY)
    ]


def _is_open(target: Callable[..., Any]) -> bool:
    return any(one.kind is one.VAR_KEYWORD for one in inspect.signature(target).parameters.values())


def _is_plainly_wrong(hint: str, value: Any) -> bool:
    kinds = {part.strip() for part in hint.split("|")}
    whole = {"int", "Count", "Natural"}
    if not kinds <= whole | {"float", "bool", "str", "None", "Positive", "NonNegative", "Probability"} or not kinds:
        return False
    if value is None:
        return "None" not in kinds
    right = {
        bool: "bool" in kinds,
        str: "str" in kinds and value != "\udcff",
        float: not kinds <= whole | {"bool", "str", "None"} and math.isfinite(value if isinstance(value, float) else 0),
        int: not kinds <= {"bool", "str", "None"} and (not isinstance(value, int) or abs(value) < 10**400),
    }
    return not right.get(type(plain_scalar(value)), False)


def _text(value: Any) -> str:
    try:
        return repr(value)[:60]
    except ValueError:
        return "10**5000, or with it"
