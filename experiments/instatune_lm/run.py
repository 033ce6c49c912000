"""Fine-tune a pretrained language model as a supernet, train a supernet from scratch, or fine-tune each size by itself?

    python experiments/instatune_lm/run.py --runs FOLDER

goes on where it stopped; --report prints the figures of the runs; --smoke takes seconds.  One JSON line last.  See README.md.
"""

from __future__ import annotations

import argparse
import copy
import json
import random
import statistics
import sys
import sysconfig
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeAlias

sys.path.insert(0, str(Path(__file__).parent.parent))

import numpy as np
import torch
from runs_common.folder import by_seed, carry_out, kept
from torch import nn
from transformers import LlamaConfig, LlamaForCausalLM

import nas
from nas import files
from nas.train import FixedList, Sampler
from nas.train.text import BytePairs, LanguageModelling, split_by_file
from searchspaces import pretrained

OTHER = ("email", "http", "urllib", "xmlrpc")
"""Packages to fine-tune on: the internet.  The rest of the library is what the model is pretrained on."""
LEFT_OUT = {"test", "tests", "idle_test", "idlelib", "tkinter", "turtledemo", "site-packages", "dist-packages"}
LEFT_OUT |= {"__pycache__", "_bundled"}
SMALL: dict[str, Any] = {"width": 48, "layers": 3, "heads": 4, "hidden": 144, "context": 32, "batch": 8, "merges": 256}
SMALL |= {"limit": 2_000_000, "pretraining": 4000, "steps": 2000, "sizes": 10}
SMOKE: dict[str, Any] = {"width": 16, "layers": 2, "heads": 2, "hidden": 32, "context": 16, "batch": 4, "merges": 32}
SMOKE |= {"limit": 60_000, "pretraining": 2, "steps": 3, "sizes": 3}
PASSES = 4
"""Forward and backward passes of a step of the sandwich: largest, smallest and two at random."""
FRESH = 4e-3
"""Highest learning rate of weights that are drawn; that of fine-tuning is the trainer's default."""
Bits: TypeAlias = list[float | None]
"""Per byte of the test split, by arch; None was not measured."""


@dataclass
class Case:
    """Everything that the ways of one seed share.

    Attributes:
        scale: sizes and lengths.
        seed: of weights, files, windows and archs.
        task: what is fine-tuned on.
        start: the pretrained model, elastic.
        fresh: the same with drawn weights.
        teacher: the pretrained model, fine-tuned by itself.
    """

    scale: Mapping[str, Any]
    seed: int
    task: LanguageModelling
    start: nas.Supernet
    fresh: nas.Supernet
    teacher: nn.Module

    def archs(self) -> list[nas.Arch]:
        """As many as there are sizes, evenly apart: smallest, largest, and for each size between them one at random."""
        space = self.start.space
        found = {arch: size(self.start, arch) for arch in space.enumerate()}
        targets = np.linspace(found[space.smallest], 1.0, self.scale["sizes"])[1:-1]
        draw = random.Random(self.seed)
        between = [draw.choice(sorted(found, key=lambda arch: abs(found[arch] - at))[:8]) for at in targets]
        return [space.smallest, *between, space.largest]

    def tuned(self, net: nas.Supernet, sampler: Sampler, loss: nas.Loss, steps: int, **options: Any) -> nas.Supernet:
        """A copy of `net`, trained."""
        trained = copy.deepcopy(net)
        options |= {"steps": steps, "validate_every": steps, "seed": self.seed}
        nas.Training(trained, self.task, sampler=sampler, loss=loss, **options).run(progress=False)
        return trained

    def bits(self, net: nas.Supernet, arch: nas.Arch) -> float:
        """Bits per byte of the test split."""
        return nas.Accuracy(net, self.task, split="test")(arch)["bits_per_byte"]

    def all_bits(self, net: nas.Supernet) -> Bits:
        """Of each of the archs."""
        return [self.bits(net, arch) for arch in self.archs()]

    def each(self, steps: int, every: int = 1) -> Bits:
        """Of the archs, or one in so many, each fine-tuned by itself from the pretrained weights."""
        loss = nas.Teacher(self.teacher)
        return [
            None if number % every else self.bits(self.tuned(self.start, FixedList([arch.choices]), loss, steps), arch)
            for number, arch in enumerate(self.archs())
        ]


WAYS: dict[str, Callable[[Case], Bits]] = {
    "not fine-tuned": lambda case: case.all_bits(case.start),
    "supernet": lambda case: case.all_bits(
        case.tuned(case.start, nas.Sandwich(2), nas.Teacher(case.teacher), case.scale["steps"])
    ),
    "each, equal cost": lambda case: case.each(case.scale["steps"] * PASSES // case.scale["sizes"]),
    "from scratch": lambda case: case.all_bits(
        case.tuned(case.fresh, nas.Sandwich(2), nas.Teacher(case.teacher), case.scale["steps"], lr=FRESH)
    ),
    "each, equal steps": lambda case: case.each(case.scale["steps"], every=3),
    "from scratch, rate of fine-tuning": lambda case: case.all_bits(
        case.tuned(case.fresh, nas.Sandwich(2), nas.Teacher(case.teacher), case.scale["steps"])
    ),
    "supernet, one random arch": lambda case: case.all_bits(
        case.tuned(case.start, nas.Uniform(1), nas.Teacher(case.teacher), case.scale["steps"] * PASSES)
    ),
    "supernet, in-place": lambda case: case.all_bits(
        case.tuned(case.start, nas.Sandwich(2), nas.InPlace(), case.scale["steps"])
    ),
}
"""Bits per byte of each of the archs; the most important first, as all seeds of one go before the next."""
REFERENCE = "supernet"


def corpora(scale: Mapping[str, Any], seed: int) -> tuple[LanguageModelling, LanguageModelling]:
    """The task of the pretraining and that of the fine-tuning; the tokenizer knows the former's training files only."""
    root = Path(sysconfig.get_paths()["stdlib"])
    texts: tuple[dict[str, str], dict[str, str]] = ({}, {})
    for path in sorted(root.rglob("*.py")):
        parts = path.relative_to(root).parts
        if not LEFT_OUT & set(parts):
            texts[parts[0] in OTHER]["/".join(parts)] = path.read_text(encoding="utf-8", errors="replace")
    first, second = (split_by_file(each, scale["limit"], (0.03, 0.08), seed) for each in texts)
    tokenizer = BytePairs.train(first[0], scale["merges"])
    return _task(first, tokenizer, scale, seed), _task(second, tokenizer, scale, seed)


def _task(splits: Any, tokenizer: BytePairs, scale: Mapping[str, Any], seed: int) -> LanguageModelling:
    train, valid, test = (
        torch.from_numpy(np.concatenate([[*tokenizer.encode(text), tokenizer.end] for text in split]).astype(np.int64))
        for split in splits
    )
    return LanguageModelling(train, valid, test, tokenizer, scale["context"], scale["batch"], seed)


def llama(task: LanguageModelling, scale: Mapping[str, Any], seed: int) -> nn.Module:
    """A small Llama of drawn weights."""
    config = LlamaConfig(
        vocab_size=task.vocabulary,
        hidden_size=scale["width"],
        num_hidden_layers=scale["layers"],
        num_attention_heads=scale["heads"],
        num_key_value_heads=scale["heads"],
        intermediate_size=scale["hidden"],
        max_position_embeddings=scale["context"],
        tie_word_embeddings=True,
        use_cache=False,
    )
    torch.manual_seed(seed)
    return LlamaForCausalLM(config)


def alone(model: nn.Module, task: LanguageModelling, seed: int, **options: Any) -> nn.Module:
    """The whole model, trained by itself on the labels."""
    net = pretrained.supernet(model, example=task.example)
    options["validate_every"] = options["steps"]
    nas.Training(net, task, sampler=FixedList([{}]), loss=nas.Labels(), seed=seed, **options).run(False)
    return net.extract(net.space.largest)


def stored(model: nn.Module, file: Path, train: Callable[[nn.Module], nn.Module]) -> nn.Module:
    """`model` as it was trained in an earlier run, else now."""
    if not file.exists():
        with files.replacing(file) as half:
            torch.save(train(model).state_dict(), half)
    model.load_state_dict(torch.load(file, weights_only=True))
    return model


def elastic(model: nn.Module, task: LanguageModelling, scale: Mapping[str, Any]) -> nas.Supernet:
    """The model as a supernet: a quarter, half or all of the heads and neurons of each block, one to all of the blocks."""
    return pretrained.supernet(
        model,
        example=task.example,
        blocks="model.layers.*",
        units=pretrained.llama_units(model.config),
        choices={
            name: sorted({max(1, whole // part) for part in (1, 2, 4)})
            for name, whole in (("heads", scale["heads"]), ("neurons", scale["hidden"]))
        },
        depths=range(1, scale["layers"] + 1),
    )


def case_of(scale: Mapping[str, Any], seed: int, folder: Path) -> Case:
    """Pretrained weights and teacher are kept in `folder`."""
    first, task = corpora(scale, seed)
    options: dict[str, Any] = {"steps": scale["pretraining"], "lr": FRESH}
    model = stored(
        llama(task, scale, seed), folder / f"pretrained, {seed}.pt", lambda net: alone(net, first, seed, **options)
    )
    teacher = stored(
        copy.deepcopy(model),
        folder / f"teacher, {seed}.pt",
        lambda net: alone(net, task, seed, steps=scale["steps"]),
    )
    fresh = elastic(llama(task, scale, seed), task, scale)
    return Case(scale, seed, task, elastic(model, task, scale), fresh, teacher)


def size(net: nas.Supernet, arch: nas.Arch) -> float:
    """Parameters of the blocks, as a fraction of the whole model's."""
    inside = [
        sum(tensor.numel() for name, tensor in net.cut(each).items() if ".layers." in name)
        for each in (arch, net.space.largest)
    ]
    return inside[0] / inside[1]


def measured(case: Case, way: str) -> dict[str, Any]:
    """What is kept of one way and seed."""
    begun = time.process_time()
    found = WAYS[way](case)
    seconds = time.process_time() - begun
    whole = case.task.evaluate(case.teacher, "test")["bits_per_byte"]
    sizes = [size(case.start, arch) for arch in case.archs()]
    return {"bits": found, "sizes": sizes, "teacher": whole, "archs": case.start.space.size, "seconds": seconds}


def everything(options: argparse.Namespace, folder: Path) -> None:
    """Runs what is missing, and prints the figures."""
    cases: dict[int, Case] = {}
    scale = SMOKE if options.smoke else SMALL
    for way in () if options.report else options.ways:
        for seed in range(options.seeds):
            file = folder / f"{way}, {seed}.json"
            if not file.exists() and seed not in cases:
                cases[seed] = case_of(scale, seed, folder)
            row = kept(file, lambda way=way, seed=seed: measured(cases[seed], way))
            print(f"{way}, seed {seed}: {row['bits']}", flush=True)
    print(json.dumps(figures(folder)))


def figures(folder: Path) -> dict[str, Any]:
    """Means and deviations over the seeds: bits per byte by way and size, and what each way has more than the supernet."""
    runs = {way: by_seed(folder, way) for way in WAYS}
    base = runs[REFERENCE]
    if not base:
        return {"seeds": 0}
    found: dict[str, Any] = {
        "sizes": _by_size([run["sizes"] for run in base.values()]),
        "teacher": _spread([run["teacher"] for run in base.values()]),
        "archs": next(iter(base.values()))["archs"],
    }
    for way, each in runs.items():
        gaps = [_gaps(run["bits"], base[seed]["bits"]) for seed, run in each.items() if seed in base]
        if gaps:
            found[way] = {
                "bits": _by_size([run["bits"] for run in each.values()]),
                "more than the supernet": _by_size(gaps),
                "more, mean of the sizes": _spread([_mean(gap) for gap in gaps]),
                "most": _spread([max(_some(gap)) for gap in gaps]),
                "least": _spread([min(_some(gap)) for gap in gaps]),
                "seeds": len(each),
                "cpu_seconds": round(_mean([run["seconds"] for run in each.values()])),
            }
    return found


def _gaps(ours: Bits, theirs: Bits) -> Bits:
    """What the first have more, where both were measured."""
    return [None if None in (one, other) else one - other for one, other in zip(ours, theirs, strict=True)]


def _some(values: Bits) -> list[float]:
    """Those that were measured."""
    return [value for value in values if value is not None]


def _mean(values: Bits) -> float:
    return statistics.fmean(_some(values))


def _by_size(rows: list[Bits]) -> list[list[float] | None]:
    """Mean and deviation of each size."""
    return [_spread(_some(list(values))) if _some(list(values)) else None for values in zip(*rows, strict=True)]


def _spread(values: list[float]) -> list[float]:
    """Mean and deviation."""
    return [round(statistics.fmean(values), 4), round(statistics.pstdev(values), 4)]


def main() -> None:
    """Runs what is asked for and prints the figures."""
    words = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    words.add_argument("--runs", type=Path, help="folder of the runs")
    words.add_argument("--ways", nargs="+", choices=list(WAYS), default=list(WAYS))
    words.add_argument("--seeds", type=int, default=3)
    words.add_argument("--report", action="store_true", help="only the figures of what was run")
    words.add_argument("--smoke", action="store_true", help="seconds, to see that it runs")
    options = words.parse_args()
    if options.smoke:
        options.seeds, options.ways = 1, list(WAYS)[:4]
    carry_out(everything, options, words)


if __name__ == "__main__":
    main()
