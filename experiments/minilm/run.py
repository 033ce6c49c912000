"""What is left of a sentence encoder with real weights when nas.elastic makes it smaller?  See README.md.

python experiments/minilm/run.py --weights FOLDER [--steps 150] [--smoke]
"""

from __future__ import annotations

import argparse
import ast
import json
import os
import random
import subprocess
import sys
import sysconfig
import tempfile
import time
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).parent))

import torch
from encoder import Encoder, numbered, pretrained
from scipy.stats import spearmanr
from torch import Tensor, nn

import nas
from nas.study.take_home import take_home

LENGTH = 16
"""Tokens of a sentence; longer ones are cut."""


def sentences(count: int) -> list[str]:
    """First sentences of docstrings of Python's own library, in a random order that is always the same."""
    found: dict[str, None] = {}
    for path in sorted(Path(sysconfig.get_paths()["stdlib"]).glob("*.py")):
        tree = ast.parse(path.read_text(encoding="utf-8", errors="replace"))
        for node in ast.walk(tree):
            if isinstance(node, (ast.Module, ast.ClassDef, ast.FunctionDef)):
                text = " ".join((ast.get_docstring(node) or "").split()).split(". ")[0]
                if 20 <= len(text) <= 200:
                    found[text] = None
        if len(found) >= 4 * count:
            break
    texts = list(found)
    random.Random(0).shuffle(texts)
    return texts[:count]


class Quality:
    """Spearman's correlation of the cosines of all pairs of sentences with the original's."""

    def __init__(self, model: nn.Module, supernet: nas.Supernet, tokens: Tensor) -> None:
        self.supernet, self.tokens = supernet, tokens
        self.above = torch.triu_indices(len(tokens), len(tokens), 1)
        self.target = self.cosines(model)

    @torch.no_grad()
    def cosines(self, network: Any) -> Tensor:
        """(pairs,) of a network, or of a binding."""
        found = network(self.tokens)
        return (found @ found.T)[self.above[0], self.above[1]]

    def of(self, network: Any) -> float:
        return float(spearmanr(self.cosines(network).numpy(), self.target.numpy()).statistic)

    def __call__(self, arch: nas.Arch) -> float:
        return self.of(self.supernet.eval().bind(arch))


def within(supernet: nas.Supernet, budget: int, count: int) -> list[nas.Arch]:
    """Random archs whose parameters are between 93 and 100 % of a budget, as near to it as a search gets."""
    draw, found = random.Random(1), []
    for _ in range(3000):
        arch = supernet.space.sample(draw)
        if 0.93 * budget <= supernet.params(arch) <= budget:
            found.append(arch)
        if len(found) == count:
            break
    return found


LOADED = """
import json, sys, torch
from load import load
tokens, target = torch.load(sys.argv[1])
with torch.no_grad():
    print(json.dumps((load().eval()(tokens) - target).abs().max().item()))
"""


def difference_elsewhere(winner: Path, network: nn.Module, tokens: Tensor) -> float:
    """The largest of outputs between a network and what another process makes of its folder's `load.py`."""
    with tempfile.TemporaryDirectory() as folder, torch.no_grad():
        torch.save((tokens, network(tokens)), Path(folder) / "outputs.pt")
        roots = [winner, Path(__file__).parent, *filter(None, sys.path)]
        told = subprocess.run(
            [sys.executable, "-c", LOADED, f"{folder}/outputs.pt"],
            env={**os.environ, "PYTHONPATH": os.pathsep.join(map(str, roots))},
            stdout=subprocess.PIPE,
            check=True,
        )
    return float(json.loads(told.stdout))


@torch.no_grad()
def milliseconds(networks: dict[str, nn.Module], tokens: Tensor) -> dict[str, float]:
    """For one sentence, the fastest of seven passes over a batch, the networks one after the other."""
    took: dict[str, list[float]] = {name: [] for name in networks}
    for _ in range(7):
        for name, network in networks.items():
            began = time.perf_counter()
            network(tokens)
            took[name].append(time.perf_counter() - began)
    return {name: round(1000 * min(all_of) / len(tokens), 3) for name, all_of in took.items()}


def main() -> None:  # noqa: PLR0915 (one step after the other, as a user goes)
    """Convert, order the depth, train, search, extract, reload, and print the figures as one line of JSON."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--weights", help="folder with config.json, model.safetensors and tokenizer.json")
    parser.add_argument("--steps", type=int, default=150, help="of training")
    parser.add_argument("--trials", type=int, default=30, help="of the search")
    parser.add_argument("--smoke", action="store_true", help="a small random model, in seconds")
    options = parser.parse_args()
    if options.smoke:
        options.weights, options.steps, options.trials = None, 6, 12
    elif options.weights is None:
        parser.error("--weights is needed (or --smoke); see README.md")
    torch.set_num_threads(1)
    folder, granule, lr = options.weights, *((8, 1e-3) if options.smoke else (64, 1e-4))
    train, valid, test = (32, 16, 16) if options.smoke else (1000, 120, 200)
    tokens = numbered(sentences(train + valid + test), folder, LENGTH)
    tokens, valid_tokens, test_tokens = tokens.split([train, valid, test])
    model, seconds, clock = pretrained(folder), {}, time.perf_counter

    began = clock()
    example = tokens[:2]
    space: Any = nas.elastic(model, example, granule=granule, build=nas.model(Encoder)(folder))
    seconds["convert"] = clock() - began
    print(space.report)
    few, began = tokens[:24], clock()
    with torch.no_grad():
        goal = model(few) @ model(few).T
    space = nas.order_depth(
        nas.Supernet(space, example=example, weights=model),
        loss=lambda network: (network(few) @ network(few).T - goal).square().mean(),
    )
    seconds["order"] = clock() - began
    print("\n".join(note for note in space.report.notes if "keeps the first of" in note), flush=True)

    supernet, untrained = (nas.Supernet(space, example=example, weights=model) for _ in range(2))
    judged, judged_untrained = (Quality(model, net, test_tokens) for net in (supernet, untrained))
    sizes = supernet.params(space.largest), supernet.params(space.smallest)
    budget = round(sizes[1] + 0.6 * (sizes[0] - sizes[1]))

    began = clock()
    halves = valid_tokens[: valid // 2], valid_tokens[valid // 2 :]
    with torch.no_grad():
        alike = (model(halves[0]) * model(halves[1])).sum(1)
    task = nas.Embedding(
        (tokens[: train // 2], tokens[train // 2 :]),  # any pairs: the original alone says what is alike
        (*halves, alike),
        batch=4 if options.smoke else 12,
    )
    training = nas.Training(
        supernet,
        task,
        sampler=nas.Sandwich(1),
        loss=nas.Teacher(model, weight=1.0),
        steps=options.steps,
        lr=lr,
        weight_decay=0.0,
        validate_every=options.steps,
    )
    training.run()
    seconds["train"] = clock() - began
    print(f"trained in {seconds['train']:.0f} s", flush=True)

    chosen_by = Quality(model, supernet, valid_tokens)

    @nas.evaluator(source=supernet)
    def spearman(model: nn.Module) -> float:
        return chosen_by.of(model)

    began = clock()
    with tempfile.TemporaryDirectory() as place:
        study = nas.Study(
            "minilm",
            space=space,
            objectives=["max spearman", "min macs"],
            evaluators=[spearman, nas.Costs(supernet)],
            algorithm=nas.NSGA2(population=min(options.trials, 20)),
            constraints=[f"params <= {budget}"],
            store=Path(place) / "nas.db",
            trials=options.trials,
        )
        study.run(workers=0, progress=False)
        best = study.best("spearman")
        winner = take_home(study, int(best.name))
        winner.write(Path(place) / "winner")
        study.close()
        seconds["search"] = clock() - began
        elsewhere = difference_elsewhere(Path(place) / "winner", winner.module, test_tokens)
    archs = {"largest": [space.largest], "found": [winner.arch], "smallest": [space.smallest]}
    archs["random"] = within(supernet, budget, 2 if options.smoke else 8)

    def of_all(quality: Quality) -> dict[str, list[float]]:
        return {name: [round(quality(arch), 4) for arch in some] for name, some in archs.items()}

    figures = {
        "params": {name: [supernet.params(arch) for arch in some] for name, some in archs.items()},
        "macs": {name: [supernet.macs(arch) for arch in some] for name, some in archs.items()},
        "budget": budget,
        "choices": dict(winner.arch.choices),
        "spearman_untrained": of_all(judged_untrained),
        "spearman": of_all(judged),
        "valid_spearman_found": round(float(best["spearman"]), 4),
        "reloaded": {"spearman": round(judged.of(winner.module), 4), "difference_elsewhere": elsewhere},
        "ms_per_sentence": milliseconds({"largest": model, "found": winner.module}, test_tokens),
        "seconds": {name: round(value) for name, value in seconds.items()},
    }
    print(json.dumps(figures))


if __name__ == "__main__":
    main()
