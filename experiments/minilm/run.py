"""What is left of a sentence encoder with real weights when nas.elastic makes it smaller?  See README.md.

python experiments/minilm/run.py --weights FOLDER [--steps 40] [--smoke]
"""

from __future__ import annotations

import argparse
import ast
import json
import random
import sysconfig
import tempfile
import time
from pathlib import Path
from typing import Any

import torch
from scipy.stats import spearmanr
from torch import Tensor, nn
from torch.nn import functional

import nas

LENGTH = 32
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


def embedded(output: Any, mask: Tensor) -> Tensor:
    """(n, width) directions: means over the tokens that are there."""
    there = mask[..., None].to(output.last_hidden_state.dtype)
    return functional.normalize((output.last_hidden_state * there).sum(1) / there.sum(1), dim=-1)


def similarities(network: Any, batch: dict[str, Tensor]) -> Tensor:
    """(n, n) cosines of what a network, or a binding, makes of the sentences of a batch."""
    output = network(batch) if not isinstance(network, nn.Module) else network(**batch)
    found = embedded(output, batch["attention_mask"])
    return found @ found.T


class Quality:
    """Spearman correlation of a network's similarities with the original's; an evaluator of a study, too."""

    def __init__(self, supernet: nas.Supernet, batch: dict[str, Tensor], target: Tensor) -> None:
        self.supernet, self.batch = supernet, batch
        self.above = torch.triu_indices(len(target), len(target), 1)
        self.target = target[self.above[0], self.above[1]]

    @torch.no_grad()
    def of(self, network: Any) -> float:
        found = similarities(network, self.batch)[self.above[0], self.above[1]]
        return float(spearmanr(found.numpy(), self.target.numpy()).statistic)

    def __call__(self, arch: nas.Arch) -> dict[str, float]:
        self.supernet.eval()
        return {"spearman": self.of(self.supernet.bind(arch))}


def loaded(folder: Path | None, texts: list[str]) -> tuple[nn.Module, dict[str, Tensor]]:
    """The model, and the tokens of all texts; without a folder a small random one of the same class, and words by number."""
    from transformers import AutoModel, AutoTokenizer, BertConfig, BertModel

    if folder is not None:
        tokenizer = AutoTokenizer.from_pretrained(folder)
        tokens = tokenizer(texts, return_tensors="pt", padding="max_length", truncation=True, max_length=LENGTH)
        return AutoModel.from_pretrained(folder).eval(), dict(tokens)
    torch.manual_seed(0)
    model = BertModel(
        BertConfig(
            vocab_size=128,
            hidden_size=32,
            num_hidden_layers=3,
            num_attention_heads=4,
            intermediate_size=64,
            max_position_embeddings=LENGTH,
        )
    )
    rows = [[1 + sum(map(ord, word)) % 127 for word in text.split()][:LENGTH] for text in texts]
    ids = torch.tensor([row + [0] * (LENGTH - len(row)) for row in rows])
    return model.eval(), {
        "input_ids": ids,
        "token_type_ids": torch.zeros_like(ids),
        "attention_mask": (ids != 0).long(),
    }


def train(supernet: nas.Supernet, tokens: dict[str, Tensor], targets: Tensor, steps: int, batch: int) -> list[float]:
    """Sandwich steps: the largest, the smallest and one at random learn the original's similarities; losses of the smallest."""
    optimizer = torch.optim.AdamW(supernet.parameters(), lr=3e-5 if targets.shape[1] > 64 else 1e-3, weight_decay=0.0)
    draw, losses = random.Random(0), []
    supernet.train()
    for _ in range(steps):
        rows = torch.tensor(draw.sample(range(len(targets)), batch))
        inputs = {name: tensor[rows] for name, tensor in tokens.items()}
        wanted = targets[rows] @ targets[rows].T
        optimizer.zero_grad()
        for arch in (supernet.space.largest, supernet.space.sample(draw), supernet.space.smallest):
            loss = (similarities(supernet.bind(arch), inputs) - wanted).square().mean()
            loss.backward()
        optimizer.step()
        losses.append(loss.detach().item())
    return losses


def main() -> None:  # noqa: PLR0915 (one step after the other, as a user goes)
    """Convert, order the depth, train, search, extract, reload, and print the figures as one line of JSON."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--weights", type=Path, help="folder with config.json, model.safetensors and tokenizer.json")
    parser.add_argument("--steps", type=int, default=40, help="of training")
    parser.add_argument("--trials", type=int, default=30, help="of the search")
    parser.add_argument("--smoke", action="store_true", help="a small random model, in seconds; writes nothing")
    options = parser.parse_args()
    if options.smoke:
        options.weights, options.steps, options.trials = None, 4, 12
    elif options.weights is None:
        parser.error("--weights is needed (or --smoke); see README.md")
    torch.set_num_threads(1)
    count, batch = (48, 8) if options.smoke else (1200, 24)
    texts, clock = sentences(count), time.perf_counter
    model, tokens = loaded(options.weights, texts)
    test = count // 6
    held, tokens = {name: t[:test] for name, t in tokens.items()}, {name: t[test:] for name, t in tokens.items()}
    with torch.no_grad():
        rows = [{name: t[at : at + 64] for name, t in tokens.items()} for at in range(0, count - test, 64)]
        targets = torch.cat([embedded(model(**some), some["attention_mask"]) for some in rows])
        wanted = similarities(model, held)
    example = {name: tensor[:2] for name, tensor in tokens.items()}

    began = clock()
    space: Any = nas.elastic(model, example, granule=64 if not options.smoke else 8)
    convert_s = clock() - began
    print(space.report)
    few = {name: tensor[:batch] for name, tensor in tokens.items()}
    first = nas.Supernet(space, example=example, weights=model)
    goal = targets[:batch] @ targets[:batch].T
    space = nas.order_depth(first, loss=lambda network: (similarities(network, few) - goal).square().mean())
    print("\n".join(note for note in space.report.notes if "keeps the first of" in note))

    supernet = nas.Supernet(space, example=example, weights=model)
    quality = Quality(supernet, held, wanted)
    draw = random.Random(1)
    randoms = [space.sample(draw) for _ in range(3 if options.smoke else 10)]
    largest = quality(space.largest)
    before = {
        "smallest": quality(space.smallest)["spearman"],
        "random": mean(quality(arch)["spearman"] for arch in randoms),
    }
    began = clock()
    losses = train(supernet, tokens, targets, options.steps, batch)
    train_s = clock() - began
    after = {
        "largest": quality(space.largest)["spearman"],
        "smallest": quality(space.smallest)["spearman"],
        "random": mean(quality(arch)["spearman"] for arch in randoms),
    }

    sizes = supernet.params(space.largest), supernet.params(space.smallest)
    budget = round(sizes[1] + 0.6 * (sizes[0] - sizes[1]))
    began = clock()
    with tempfile.TemporaryDirectory() as folder:
        study = nas.Study(
            "minilm",
            space=space,
            objectives=["max spearman", "min macs"],
            evaluators=[quality, nas.Costs(supernet)],
            algorithm=nas.NSGA2(population=min(options.trials, 20)),
            constraints=[f"params <= {budget}"],
            store=Path(folder) / "nas.db",
            trials=options.trials,
        )
        study.run(workers=0, progress=False)
        best = study.best("spearman")
        arch = study.arch(int(best.name))
        study.close()
    search_s = clock() - began
    small = reloaded(supernet.extract(arch).eval())
    took = {name: milliseconds(network, held) for name, network in {"largest": model, "found": small}.items()}
    figures = {
        "params": {"largest": sizes[0], "smallest": sizes[1], "budget": budget, "found": int(best["params"])},
        "spearman": {
            "largest": largest["spearman"],
            "before": before,
            "after": after,
            "found": float(best["spearman"]),
            "found_reloaded": quality.of(small),
        },
        "ms_per_sentence": took,
        "seconds": {"convert": convert_s, "train": train_s, "search": search_s},
        "loss": [losses[0], losses[-1]],
    }
    print(json.dumps(figures))


def reloaded(network: nn.Module) -> nn.Module:
    """The network as another process reads it."""
    with tempfile.TemporaryDirectory() as folder:
        torch.save(network, Path(folder) / "network.pt")
        found: nn.Module = torch.load(Path(folder) / "network.pt", weights_only=False)
    return found.eval()


@torch.no_grad()
def milliseconds(network: nn.Module, batch: dict[str, Tensor]) -> float:
    """For one sentence, the fastest of five passes over a batch."""
    took = []
    for _ in range(5):
        began = time.perf_counter()
        network(**batch)
        took.append(time.perf_counter() - began)
    return 1000 * min(took) / len(batch["input_ids"])


def mean(values: Any) -> float:
    """Of numbers."""
    found = list(values)
    return sum(found) / len(found)


if __name__ == "__main__":
    main()
