"""Other libraries that make networks smaller, where they are installed: none of them is needed by the project.

FastNAS takes budgets in operations alone.  What they return is tuned as all else is.
"""

from __future__ import annotations

import copy
import warnings
from typing import Any

import torch
from compress_common.compare import Case, in_turns
from torch import nn

import nas
from nas.compressing import parse_budget
from nas.compressing.calibration import first_batches
from nas.train import as_supernet

STEPS = 200
"""Of Torch-Pruning, which stops at the first within the budget."""


def torch_pruning(case: Case) -> dict[str, nn.Module]:
    """Torch-Pruning (Fang et al. 2023, "DepGraph"): group Taylor importance, over all layers of a structure (isomorphic).

    A classifier's outputs stay; attention loses whole heads.  Gradients are of the batches that `nas.Calibration` takes.
    """
    import torch_pruning as peer

    model: Any = copy.deepcopy(case.model).eval().requires_grad_()
    heads = {layer: one.num_attention_heads for one in model.modules() for layer in _projections(one)}
    steps = sum(heads.values()) // 6 if heads else STEPS  # two heads each: 1.6 fails at a step that takes none
    last = [one for one in model.modules() if isinstance(one, nn.Linear)][-1]
    pruner = peer.pruner.BasePruner(
        model,
        case.task.example,
        importance=peer.importance.GroupTaylorImportance(),
        global_pruning=True,
        isomorphic=True,
        pruning_ratio=1.0,
        max_pruning_ratio=0.9,
        iterative_steps=steps,
        ignored_layers=[last] if isinstance(case.task, nas.Classification) else [],
        num_heads=heads,
        prune_num_heads=bool(heads),
        prune_head_dims=not heads,
        head_pruning_ratio=1.0 if heads else 0.0,
        round_to=8,
    )
    bound = case.bound(_cost(case.model, case))
    while _cost(model, case) > bound:
        if pruner.current_step == steps:
            return {}
        model.zero_grad()
        for batch in first_batches(case.task, 8):
            case.task.loss(model(batch.inputs), batch).backward()
        pruner.step()
    model.zero_grad()
    return {"Torch-Pruning": case.tuned_module(model, "torch_pruning")}


def _projections(module: Any) -> list[nn.Module]:
    """Of attention as BERT of Hugging Face has it, whose heads are the last axis cut into equal parts; else none."""
    return [module.query, module.key, module.value] if hasattr(module, "num_attention_heads") else []


def fastnas(case: Case) -> dict[str, nn.Module]:
    """FastNAS of NVIDIA's Model-Optimizer: sensitivities of layers, then a search within the budget.

    Candidates are scored by their loss on the batches that `nas.Calibration` takes, widths are multiples of 8.
    """
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        import modelopt.torch.prune as peer

        if not case.budget.startswith("macs"):
            raise SystemExit(f"{case.budget!r}: FastNAS takes budgets in operations here")
        batches = first_batches(case.task, 8)

        @torch.no_grad()
        def score(model: nn.Module) -> float:
            model.eval()
            return -sum(float(case.task.loss(model(batch.inputs), batch)) for batch in batches) / len(batches)

        share = case.bound(1.0)
        widths = {"nn.Conv2d": {"*": {"channel_divisor": 8}}, "nn.BatchNorm2d": {"*": {"feature_divisor": 8}}}
        model, _ = peer.prune(
            copy.deepcopy(case.model),
            mode=[("fastnas", widths)],
            constraints={"flops": f"{100 * share:g}%"},
            dummy_input=case.task.example,
            config={
                "score_func": score,
                "data_loader": [batch.inputs for batch in batches],
                "collect_func": lambda inputs: inputs,
                "verbose": False,
            },
        )
    plain = copy.deepcopy(case.model)  # of ordinary classes, with the pruned layers' sizes
    for name, module in model.named_modules():
        if isinstance(module, nn.Conv2d | nn.Linear | nn.BatchNorm2d):
            plain.set_submodule(name, _plain(module))
    return {"FastNAS": case.tuned_module(plain, "fastnas")}


def _plain(module: nn.Module) -> nn.Module:
    """A layer of torch's own class with the same weights."""
    one: Any = module
    found: nn.Module
    match module:
        case nn.Conv2d():
            found = nn.Conv2d(
                one.in_channels,
                one.out_channels,
                one.kernel_size,
                one.stride,
                one.padding,
                one.dilation,
                one.groups,
                one.bias is not None,
            )
        case nn.Linear():
            found = nn.Linear(one.in_features, one.out_features, one.bias is not None)
        case _:
            found = nn.BatchNorm2d(one.num_features, one.eps, one.momentum)
    found.load_state_dict({name: value.detach().clone() for name, value in module.state_dict().items()})
    return found.train(module.training)


def _cost(model: nn.Module, case: Case) -> float:
    """The budget's metric of a module; of its latency the share of the original's, measured in turns."""
    if parse_budget(case.budget).metric == "latency_ms":
        return in_turns(case, {"": model})[""][1]
    net = as_supernet(model, example=case.task.example)
    return case.costs(net)(net.space.largest)
