"""What do sorted exits cost, what are they worth, and how fast do they draft?  See README.md.

    python experiments/sorted_lm/run.py [--smoke] [--seeds 3] [--device cpu] [--scale small]

Three parts: the cost of a step with six exits beside one of the full model alone (interleaved, medians); one sorted model beside
separately trained depths whose steps together cost as much; drafting by exits of the sorted model, and of a model that was
trained at full depth only, with the time of plain greedy generation beside.  Prints one JSON line last.
"""

from __future__ import annotations

import argparse
import json
import random
import statistics
import time
from pathlib import Path
from typing import Any

import torch

import nas
from nas.decode import greedy, speculative
from nas.train import Labels, Training, trunk
from nas.train.exits import ExitMean, SortedExits
from nas.train.losses import Step
from nas.train.text import LanguageModelling, python_corpus
from searchspaces import sorted_lm

HERE = Path(__file__).parent
SCALES = {
    "small": {
        "width": 64,
        "kv": 2,
        "head": 16,
        "context": 64,
        "batch": 8,
        "steps": 200,
        "limit": 2_000_000,
        "merges": 256,
    },
    "full": {
        "width": 512,
        "kv": 4,
        "head": 64,
        "context": 512,
        "batch": 32,
        "steps": 4000,
        "limit": 12_000_000,
        "merges": 2048,
    },
    "smoke": {"width": 16, "kv": 1, "head": 8, "context": 32, "batch": 4, "steps": 6, "limit": 60_000, "merges": 8},
}
DEPTHS = (1, 2, 3, 4, 5, 6)
WIDE = {"width": 256, "kv": 4, "head": 32, "batch": 4}
"""The other shape that the cost of exits is measured on: where the trunk is larger beside the head."""


def make(scale: dict[str, int], vocabulary: int, depths: tuple[int, ...], seed: int) -> nas.Supernet:
    """A fresh supernet of these depths."""
    space = sorted_lm.space(
        widths=(scale["width"],),
        depths=depths,
        kvs=(scale["kv"],),
        head=scale["head"],
        vocabulary=vocabulary,
        context=2 * scale["context"],
    )
    return sorted_lm.supernet(space, seed=seed)


def at(supernet: nas.Supernet, depth: int) -> nas.Arch:
    return supernet.space.arch({"depth": depth})


def corpus(scale: dict[str, int], seed: int) -> LanguageModelling:
    sizes = {"merges": scale["merges"], "limit": scale["limit"], "test": 0.08}
    return python_corpus(scale["context"], scale["batch"], seed=seed, **sizes)


class Fixed(nas.train.Sampler):
    """One depth, every step."""

    def __init__(self, depth: int) -> None:
        self.depth = depth

    def archs(self, space: nas.Space, step: int, rng: random.Random) -> list[nas.Arch]:  # noqa: ARG002
        return [space.arch({"depth": self.depth})]

    def describe(self) -> dict[str, Any]:
        return {"class": "Fixed", "depth": self.depth}


def cost_of_exits(
    scale: dict[str, int], args: argparse.Namespace, depths: tuple[int, ...] = DEPTHS, *, each: bool = False
) -> dict[str, Any]:
    """Median time of forward and backward of all exits of a step over that of the full model in the same round.

    With `each`, also that of every depth as a model of its own.
    """
    task = corpus(scale, 0)
    supernet = make(scale, task.vocabulary, depths, 0).to(args.device).train()
    batch = next(task.train_batches(0)).to(args.device)

    def once(archs: list[nas.Arch], loss: nas.train.Loss) -> float:
        step = Step(0, task, supernet.space, archs, archs[0])
        supernet.zero_grad()
        start = clock(args.device)
        for group in trunk.groups(supernet, archs):
            total = torch.zeros((), device=args.device)
            for step.arch, output in trunk.outputs(supernet, group, batch.inputs):
                total = total + loss(output, batch, step)
            total.backward()
        return clock(args.device) - start

    exits = SortedExits().archs(supernet.space, 0, random.Random(0))
    shared, alone = [], {depth: [] for depth in depths if each}
    for round_ in range(2 + args.repeats):
        base = once(exits[:1], Labels())
        seconds = once(exits, ExitMean())
        singly = {depth: once([at(supernet, depth)], Labels()) for depth in alone}
        if round_ >= 2:  # the first two warm up
            shared.append(seconds / base)
            for depth, one in singly.items():
                alone[depth].append(one / base)
    quartiles = statistics.quantiles(shared, n=4)
    full = supernet.macs(exits[0], task.example)
    head = task.context * supernet.get_parameter("embedding.weight").numel()
    found: dict[str, Any] = {
        "exits": round(statistics.median(shared), 3),
        "quartiles": [round(quartiles[0], 3), round(quartiles[2], 3)],
        "macs": round((full + (len(depths) - 1) * head) / full, 3),
    }
    if each:
        found["models"] = {depth: round(statistics.median(values), 3) for depth, values in alone.items()}
    return found


def clock(device: str) -> float:
    """Seconds: of this process's own work on a CPU, which others may be using; of the wall on a GPU, when it is done."""
    if device == "cpu":
        return time.process_time()
    torch.cuda.synchronize()
    return time.perf_counter()


def trained(supernet: nas.Supernet, task: Any, method: tuple[Any, Any], steps: int, args: Any) -> nas.Supernet:
    options = {"lr": args.lr, "seed": 0, "validate_every": steps, "device": args.device}
    Training(supernet, task, sampler=method[0], loss=method[1], steps=steps, **options).run(progress=False)
    return supernet


def bits(supernet: nas.Supernet, task: Any, depth: int, args: Any) -> float:
    """Bits per byte of one depth on the test split."""
    arch = at(supernet, depth)
    return task.evaluate(lambda tokens: supernet(tokens, arch), "test", device=args.device)["bits_per_byte"]


def compare(seed: int, scale: dict[str, int], cost: dict[str, Any], args: Any) -> dict[str, Any]:
    """One seed: bits per byte of each depth, sorted and apart, and what drafting gives."""
    task, steps = corpus(scale, seed), args.steps or scale["steps"]
    # The same number of steps for each depth, so that all together cost what the sorted training cost.
    apart = max(1, round(steps * cost["exits"] / sum(cost["models"].values())))

    def net(*method: Any, steps: int) -> nas.Supernet:
        return trained(make(scale, task.vocabulary, DEPTHS, seed), task, method, steps, args)

    sorted_net = net(SortedExits(), ExitMean(), steps=steps)
    full = net(Fixed(6), Labels(), steps=steps)
    row: dict[str, Any] = {"seed": seed, "steps": {"sorted": steps, "apart": apart, "full_alone": steps}}
    row["sorted"] = {depth: bits(sorted_net, task, depth, args) for depth in DEPTHS}
    row["apart"] = {depth: bits(net(Fixed(depth), Labels(), steps=apart), task, depth, args) for depth in DEPTHS}
    row["full_alone"] = bits(full, task, 6, args)
    row["draft"] = {"sorted": drafting(sorted_net, task, args), "full_alone": drafting(full, task, args)}
    return row


def draft_only(seed: int, scale: dict[str, int], args: Any) -> dict[str, Any]:
    """One seed of a sorted model alone: for longer trainings than the comparison can afford."""
    task, steps = corpus(scale, seed), args.steps or scale["steps"]
    net = trained(make(scale, task.vocabulary, DEPTHS, seed), task, (SortedExits(), ExitMean()), steps, args)
    measured = {depth: round(bits(net, task, depth, args), 4) for depth in DEPTHS}
    return {"seed": seed, "steps": steps, "sorted": measured, "draft": drafting(net, task, args)}


def drafting(supernet: nas.Supernet, task: Any, args: Any) -> dict[str, dict[str, float]]:
    """Accepted tokens a pass and speed-up over greedy generation, for exits and draft lengths, on prompts from the test split."""
    model: Any = supernet.extract(at(supernet, 6)).to(args.device)
    half, found = task.context, {}
    prompts = [
        task.test[start : start + half // 2][None].to(args.device)
        for start in range(0, len(task.test) - half, (len(task.test) - half) // args.prompts)
    ][: args.prompts]
    for exit_ in (1, 2, 3):
        for draft in (2, 4):
            ratios, accepted, drafted, passes, replayed = [], 0, 0, 0, 0
            for prompt in prompts:
                seconds = {}
                for name in ("greedy", "draft"):
                    start = clock(args.device)
                    if name == "greedy":
                        plain = greedy(model, prompt, half)
                    else:
                        fast = speculative(model, prompt, half, exit_=exit_, draft=draft)
                    seconds[name] = clock(args.device) - start
                assert torch.equal(plain.tokens, fast.tokens)
                ratios.append(seconds["greedy"] / seconds["draft"])
                accepted, drafted = accepted + fast.accepted, drafted + fast.drafted
                passes, replayed = passes + fast.passes, replayed + fast.replayed
            found[f"exit {exit_}, draft {draft}"] = {
                "accepted_per_pass": round(accepted / passes, 3),
                "acceptance": round(accepted / max(1, drafted), 3),
                "speed_up": round(statistics.median(ratios), 3),
                "replayed_per_token": round(replayed / (half * len(prompts)), 4),
            }
    return found


def summary(rows: list[dict[str, Any]], costs: dict[str, Any], args: Any) -> dict[str, Any]:
    """Means over seeds, with the deviation of what is compared."""

    def spread(values: list[float]) -> list[float]:
        return [round(statistics.mean(values), 4), round(statistics.stdev(values), 4) if len(values) > 1 else 0.0]

    draft = {
        kind: {
            name: {key: spread([row["draft"][kind][name][key] for row in rows]) for key in rows[0]["draft"][kind][name]}
            for name in rows[0]["draft"][kind]
        }
        for kind in ("sorted", "full_alone")
    }
    return {
        "experiment": "sorted_lm",
        "scale": args.scale,
        "device": args.device,
        "seeds": len(rows),
        "steps": rows[0]["steps"],
        "cost": costs,
        "sorted_bits_per_byte": {depth: spread([row["sorted"][depth] for row in rows]) for depth in DEPTHS},
        "apart_bits_per_byte": {depth: spread([row["apart"][depth] for row in rows]) for depth in DEPTHS},
        "sorted_minus_apart": {
            depth: spread([row["sorted"][depth] - row["apart"][depth] for row in rows]) for depth in DEPTHS
        },
        "full_alone_bits_per_byte": spread([row["full_alone"] for row in rows]),
        "draft": draft,
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--smoke", action="store_true", help="seconds, to see that it runs; writes no results")
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--first-seed", type=int, default=0)
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--scale", choices=("small", "full"), default="small")
    parser.add_argument("--steps", type=int, default=None, help="of the sorted training; by default the scale's")
    parser.add_argument("--lr", type=float, default=4e-3)
    parser.add_argument("--repeats", type=int, default=11, help="rounds of the cost measurement")
    parser.add_argument("--prompts", type=int, default=6)
    parser.add_argument(
        "--draft-only", action="store_true", help="only train the sorted model and draft; writes no results"
    )
    args = parser.parse_args()
    scale = SCALES["smoke" if args.smoke else args.scale]
    if args.smoke:
        args.seeds, args.repeats, args.prompts = 1, 2, 1
    torch.set_num_threads(1)
    if args.draft_only:
        alone = []
        for seed in range(args.first_seed, args.first_seed + args.seeds):
            alone.append(draft_only(seed, scale, args))
            print(json.dumps(alone[-1]), flush=True)
        print(json.dumps({"experiment": "sorted_lm", "draft_only": alone}))
        return
    cost = cost_of_exits(scale, args, each=True)
    wide = {**scale, **(scale if args.smoke else WIDE)}
    costs = {
        f"width {scale['width']}, 6 exits of 6 layers": cost,
        f"width {wide['width']}, 6 exits of 6 layers": cost_of_exits(wide, args),
        f"width {wide['width']}, 6 exits of 12 layers": cost_of_exits(wide, args, tuple(range(2, 13, 2))),
    }
    print(json.dumps(costs), flush=True)
    rows = []
    for seed in range(args.first_seed, args.first_seed + args.seeds):
        start = time.perf_counter()
        rows.append(compare(seed, scale, cost, args))
        print(json.dumps({**rows[-1], "seconds": round(time.perf_counter() - start)}), flush=True)
    result = summary(rows, costs, args)
    if not args.smoke:
        with (HERE / "results.jsonl").open("a", encoding="utf-8") as file:
            file.write(json.dumps({"time": time.strftime("%Y-%m-%dT%H:%M:%S"), **result}) + "\n")
    print(json.dumps(result))


if __name__ == "__main__":
    main()
