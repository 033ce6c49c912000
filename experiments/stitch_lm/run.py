"""What do stitches between two language models at their plateau give, once trained with a teacher?  See README.md.

    python experiments/stitch_lm/run.py --runs FOLDER

goes on where it stopped; --report prints the figures of the runs; --smoke takes seconds.  One JSON line last.
"""

from __future__ import annotations

import argparse
import json
import statistics
import sys
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).parent.parent))

import numpy as np
import torch
from runs_common.folder import by_seed, carry_out, kept
from scipy.stats import spearmanr
from torch import nn

import nas
from nas import files
from nas.train import Bucketed, LanguageModelling, Sampler, Uniform, as_supernet, python_corpus
from searchspaces import sorted_lm, stitch
from searchspaces.stitching_plan import Planner, SNNet, SNNetV2

SMALL: dict[str, Any] = {"widths": (24, 48), "depth": 3, "head": 12, "context": 32, "batch": 8, "limit": 300_000}
SMALL |= {"merges": 128, "anchor_steps": 3000, "rank": 4}
SMOKE: dict[str, Any] = {"widths": (8, 12), "depth": 2, "head": 4, "context": 16, "batch": 4, "limit": 60_000}
SMOKE |= {"merges": 8, "anchor_steps": 3, "rank": 2}
FRESH, LR, GROUPS = 4e-3, 2e-3, 8
"""Highest rates of drawn and of trained weights; ROS groups between the least and the most operations."""


@dataclass(frozen=True)
class Way:
    """How paths are chosen and trained.

    Attributes:
        plan: of the paths.
        grouped: paths are drawn by groups of like operations (ROS), else uniformly.
        low_rank: stitches learn by low-rank updates (LoSA), else whole.
        solved: stitches begin with the least-squares solution, else as `nn.Linear` draws them.
        taught: by the largest anchor and the labels, else by the labels.
    """

    plan: type[Planner] = SNNet
    grouped: bool = False
    low_rank: bool = False
    solved: bool = True
    taught: bool = True


WAYS = {
    "one-way": Way(),
    "two-way": Way(plan=SNNetV2),
    "one-way, ROS": Way(grouped=True),
    "one-way, low rank": Way(low_rank=True),
    "two-way, ROS": Way(plan=SNNetV2, grouped=True),
    "one-way, no teacher": Way(taught=False),
    "one-way, random": Way(solved=False),
}
"""The most important first, as all seeds of one go before the next."""


@dataclass
class Case:
    """What the ways of one seed share.

    Attributes:
        scale: sizes and lengths.
        seed: of weights, files and windows.
        task: the text.
        anchors: trained alone, the smallest first.
    """

    scale: Mapping[str, Any]
    seed: int
    task: LanguageModelling
    anchors: list[nn.Module]

    @property
    def teacher(self) -> nn.Module:
        """The largest anchor."""
        return self.anchors[-1]

    def fit(self, net: nas.Supernet, sampler: Sampler, loss: nas.Loss, steps: int, lr: float) -> None:
        """Train `net`."""
        options: dict[str, Any] = {"steps": steps, "validate_every": steps, "lr": lr, "seed": self.seed}
        nas.Training(net, self.task, sampler=sampler, loss=loss, **options).run(progress=False)


def model(width: int, scale: Mapping[str, Any], task: LanguageModelling) -> Any:
    """The call that builds an anchor."""
    return sorted_lm.sorted_lm(
        width=width,
        depth=scale["depth"],
        kv=width // scale["head"] // 2 or 1,
        ratio=2,
        group=2,
        head=scale["head"],
        vocabulary=task.vocabulary,
        context=scale["context"],
    )


def case_of(scale: Mapping[str, Any], seed: int, folder: Path) -> Case:
    """Anchors are kept in `folder`."""
    task = python_corpus(scale["context"], scale["batch"], merges=scale["merges"], limit=scale["limit"], seed=seed)
    case = Case(scale, seed, task, [])
    for width in scale["widths"]:
        case.anchors.append(_anchor(case, width, folder / f"anchor {width}, {seed}.pt"))
    return case


def _anchor(case: Case, width: int, file: Path) -> nn.Module:
    """Trained alone, from drawn weights, on the labels."""
    space = nas.Space(model(width, case.scale, case.task), name="anchor")
    net = nas.Supernet(space, example=case.task.example, seed=case.seed)
    if not file.exists():
        case.fit(net, Uniform(), nas.Labels(), case.scale["anchor_steps"], FRESH)
        with files.replacing(file) as half:
            torch.save(net.extract(space.largest).state_dict(), half)
    anchor = net.extract(space.largest)
    anchor.load_state_dict(torch.load(file, weights_only=True))
    return anchor


def longer(case: Case) -> dict[str, Any]:
    """Bits per byte of the anchors, and once each has had its part of the steps that a supernet gets, at the same rate.

    What they still gain says whether they were at their plateau; what they reach is the baseline of equal cost.
    """
    found: dict[str, Any] = {"given": [], "longer": [], "given_valid": [], "longer_valid": []}
    begun, steps = time.process_time(), case.scale["steps"] // len(case.anchors)
    for anchor in case.anchors:
        net = as_supernet(anchor, example=case.task.example)
        case.fit(net, Uniform(), nas.Labels(), steps, LR)
        for name, module in (("given", anchor), ("longer", net.extract(net.space.largest))):
            found[name].append(_bits(case.task, module))
            found[f"{name}_valid"].append(_bits(case.task, module, "valid"))
    return {**found, "seconds": time.process_time() - begun}


def _bits(task: LanguageModelling, module: nn.Module, split: Any = "test") -> float:
    return task.evaluate(module, split)["bits_per_byte"]


def measure(net: nas.Supernet, task: LanguageModelling) -> dict[str, dict[str, float]]:
    """Operations and bits per byte of every path."""
    quality = nas.Accuracy(net, task, split="test")
    return {
        arch.choices["route"]: {"macs": net.macs(arch), "bits": quality(arch)["bits_per_byte"]}
        for arch in net.space.enumerate()
    }


def trained(case: Case, way: Way) -> dict[str, Any]:
    """Operations of every path, and its bits per byte before and after the training."""
    begun, scale = time.process_time(), case.scale
    calls = [model(width, scale, case.task) for width in scale["widths"]]
    rank = scale["rank"] if way.low_rank else None
    space = stitch.space(calls, example=case.task.example, plan=way.plan(), rank=rank)
    net = stitch.supernet(space, weights=case.anchors, seed=case.seed)
    if way.solved:
        stitch.least_squares(net, next(case.task.calibration_inputs()))
    before = measure(net, case.task)
    macs = [row["macs"] for row in before.values()]
    sampler = Bucketed(net.macs, (max(macs) - min(macs)) / GROUPS) if way.grouped else Uniform()
    case.fit(net, sampler, nas.Teacher(case.teacher) if way.taught else nas.Labels(), scale["steps"], LR)
    after = measure(net, case.task)
    rows = {route: {**row, "before": before[route]["bits"]} for route, row in after.items()}
    stitches = sum(one.numel() for name, one in net.named_parameters() if "stitches" in name and one.requires_grad)
    return {"rows": rows, "stitch_parameters": stitches, "seconds": time.process_time() - begun}


def of_run(run: Mapping[str, Any], anchors: Mapping[str, Any]) -> dict[str, float]:
    """Figures of one way and seed; fewer bits are better, and a line joins the anchors' bits over their operations."""
    rows = run["rows"]
    alone = sorted((row["macs"], row["bits"]) for route, row in rows.items() if ">" not in route)
    macs, after = zip(*alone, strict=True)
    lines = {"line": anchors["given"], "line_longer": anchors["longer"], "line_after": after}
    stitched = [row for route, row in rows.items() if ">" in route]
    found = {
        "paths": float(len(stitched)),
        "before": statistics.fmean(row["before"] for row in stitched),
        "bits": statistics.fmean(row["bits"] for row in stitched),
        "worst": max(row["bits"] for row in stitched),
        "spearman": _ranked(list(rows.values())),
        "spearman_stitched": _ranked(stitched),
        "stitch_parameters": float(run["stitch_parameters"]),
    }
    for name, bits in lines.items():
        over = [row["bits"] - float(np.interp(row["macs"], macs, bits)) for row in stitched]
        found[f"reach_{name}_percent"] = 100 * statistics.fmean(each <= 0 for each in over)
        found[f"over_{name}"] = statistics.fmean(over)
    for number, bits in enumerate(after):
        found[f"anchor_{number}_after"] = bits
    return found


def _ranked(rows: list[dict[str, float]]) -> float:
    """Rank correlation of operations and quality."""
    return float(-spearmanr([row["macs"] for row in rows], [row["bits"] for row in rows]).statistic)


def figures(folder: Path) -> dict[str, Any]:
    """Mean and deviation over the seeds of each figure of each way, and of the anchors."""
    anchors = by_seed(folder, "anchors")
    if not anchors:
        return {"seeds": 0}
    found: dict[str, Any] = {"anchors": _summary([_flat(one) for one in anchors.values()]), "seeds": len(anchors)}
    for name in WAYS:
        runs = by_seed(folder, name)
        if runs:
            found[name] = _summary([of_run(run, anchors[seed]) for seed, run in runs.items()])
            found[name] |= {"seeds": len(runs), "cpu_seconds": round(_mean(run["seconds"] for run in runs.values()))}
    return found


def _flat(anchors: Mapping[str, Any]) -> dict[str, float]:
    lists = {name: each for name, each in anchors.items() if isinstance(each, list)}
    return {f"{name}_{number}": bits for name, each in lists.items() for number, bits in enumerate(each)}


def _summary(runs: list[dict[str, float]]) -> dict[str, Any]:
    values = {name: [run[name] for run in runs] for name in runs[0]}
    return {name: [round(_mean(each), 3), round(statistics.pstdev(each), 3)] for name, each in values.items()}


def _mean(values: Any) -> float:
    return statistics.fmean(values)


def everything(options: argparse.Namespace, folder: Path) -> None:
    """Runs what is missing, and prints the figures."""
    cases: dict[int, Case] = {}
    scale = {**(SMOKE if options.smoke else SMALL), "steps": options.steps}

    def once(name: str, seed: int, make: Callable[[Case], dict[str, Any]]) -> None:
        file = folder / f"{name}, {seed}.json"
        if not file.exists() and seed not in cases:
            cases[seed] = case_of(scale, seed, folder)
        kept(file, lambda: make(cases[seed]))
        print(f"{name}, seed {seed}", flush=True)

    for name in () if options.report else ("anchors", *options.ways):
        for seed in range(options.seeds):
            once(name, seed, longer if name == "anchors" else lambda case, name=name: trained(case, WAYS[name]))
    print(json.dumps(figures(folder)))


def main() -> None:
    """Runs what is asked for and prints the figures."""
    words = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    words.add_argument("--runs", type=Path, help="folder of the runs")
    words.add_argument("--ways", nargs="+", choices=list(WAYS), default=list(WAYS))
    words.add_argument("--seeds", type=int, default=3)
    words.add_argument("--steps", type=int, default=1800, help="of a supernet, and of both anchors for the baseline")
    words.add_argument("--report", action="store_true", help="only the figures of what was run")
    words.add_argument("--smoke", action="store_true", help="seconds, to see that it runs")
    options = words.parse_args()
    if options.smoke:
        options.seeds, options.steps, options.ways = 1, 4, ["one-way", "two-way, ROS", "one-way, low rank"]
    carry_out(everything, options, words)


if __name__ == "__main__":
    main()
