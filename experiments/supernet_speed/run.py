"""What sharing weights costs: subnets of a supernet against the same plain modules, interleaved in one run.

python experiments/supernet_speed/run.py [--smoke] [--device cpu|cuda] [--scale small|full] [--rounds 15]
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import random
import statistics
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

os.environ.setdefault("OMP_NUM_THREADS", "1")

import torch
from torch import Tensor, nn
from torch.nn import functional

import nas
from searchspaces import conv, vit

RATE = 1e-4


def families(scale: str) -> dict[str, nas.Supernet]:
    """Both families, for 8×8 digits (small) or 32×32 colour images (full: 1 M and 5 M parameters)."""
    if scale == "small":
        return {"conv": conv.supernet(), "vit": vit.supernet()}
    wide = conv.space(widths=((24, 32), (48, 64), (96, 128)), stem=24, channels=3)
    deep = vit.space(
        widths=(192, 256), depths=(4, 5, 6), heads=(2, 3, 4), ratios=(2, 3, 4), head=64, side=32, patch=4, channels=3
    )
    return {"conv": conv.supernet(wide, side=32), "vit": vit.supernet(deep)}


class Clock:
    """Seconds of a call.

    On a CPU the process's own time, in which other programs have no turn: with one thread it is the wall clock of an idle
    machine.  On a GPU the wall clock, with the queue empty before and after.
    """

    def __init__(self, device: torch.device) -> None:
        gpu = device.type == "cuda"
        self.now = time.perf_counter if gpu else time.process_time
        self.synchronise: Callable[[], Any] = torch.cuda.synchronize if gpu else lambda: None

    def __call__(self, work: Callable[[], Any]) -> float:
        self.synchronise()
        start = self.now()
        work()
        self.synchronise()
        return self.now() - start


def batch(net: nas.Supernet, size: int) -> tuple[Tensor, Tensor]:
    generator = torch.Generator().manual_seed(0)
    images = torch.randn(size, *net.example.shape[1:], generator=generator)
    labels = torch.randint(0, 10, (size,), generator=generator)
    return images.to(net.device), labels.to(net.device)


def optimizer(module: nn.Module) -> torch.optim.Optimizer:
    return torch.optim.AdamW(module.parameters(), lr=RATE)


def forward_round(
    net: nas.Supernet, archs: list[nas.Arch], images: Tensor, clock: Clock, repeats: int
) -> list[dict[str, Any]]:
    """Evaluation: `supernet(images, arch)` and `extract(arch)(images)` in turns."""
    net.eval()
    rows = []
    for arch in archs:
        module = net.extract(arch)
        ours, plain = [], []
        with torch.no_grad():
            for repeat in range(repeats + 1):
                pair = [(ours, lambda: net(images, arch)), (plain, lambda: module(images))]  # noqa: B023
                for times, work in pair if repeat % 2 else reversed(pair):
                    times.append(clock(work))
        rows.append({"ours": statistics.median(ours[1:]), "plain": statistics.median(plain[1:])})  # first: warm-up
    return rows


def plain_step(module: nn.Module, optimise: torch.optim.Optimizer, images: Tensor, labels: Tensor) -> None:
    functional.cross_entropy(module(images), labels).backward()
    optimise.step()
    optimise.zero_grad()


def sandwich_step(
    net: nas.Supernet,
    archs: list[nas.Arch],
    optimise: torch.optim.Optimizer,
    images: Tensor,
    labels: Tensor,
    *,
    bound: bool,
) -> None:
    for arch in archs:
        if bound:
            binding = net.bind(arch)
            binding.backward(functional.cross_entropy(binding(images), labels))
        else:
            functional.cross_entropy(net(images, arch), labels).backward()
    optimise.step()
    optimise.zero_grad()


def step_round(
    net: nas.Supernet, optimise: torch.optim.Optimizer, rng: random.Random, data: tuple[Tensor, Tensor], clock: Clock
) -> dict[str, Any]:
    """One sandwich step with fresh random archs, and a step of each of its four plain modules, in turns."""
    net.train()
    space = net.space
    archs = [space.largest, space.smallest, space.sample(rng), space.sample(rng)]
    modules = [net.extract(arch).train() for arch in archs]
    optimisers = [optimizer(module) for module in modules]
    for module, own in zip(modules, optimisers, strict=True):
        plain_step(module, own, *data)  # the optimizer's state is allocated
    work = {
        "ours": lambda: sandwich_step(net, archs, optimise, *data, bound=True),
        "plain": lambda: [plain_step(module, own, *data) for module, own in zip(modules, optimisers, strict=True)],
    }
    names = sorted(work, reverse=rng.random() < 0.5)
    row = {name: clock(work[name]) for name in names}
    # `ours` has built the skeletons of its archs; the pure form is measured after it, and has none to build.
    row["pure"] = clock(lambda: sandwich_step(net, archs, optimise, *data, bound=False))
    fresh = [space.sample(rng) for _ in range(4)]
    row["bind"] = clock(lambda: [net.bind(arch) for arch in fresh]) / len(fresh)
    return row


def ratios(rows: list[dict[str, Any]], name: str = "ours") -> dict[str, float]:
    """Median of the pairs' ratios, and their quartiles."""
    found = sorted(row[name] / row["plain"] for row in rows)
    low, middle, high = statistics.quantiles(found, n=4, method="inclusive") if len(found) > 1 else found * 3
    return {"ratio": round(middle, 3), "q1": round(low, 3), "q3": round(high, 3)}


def measure(net: nas.Supernet, *, rounds: int, size: int, clock: Clock) -> dict[str, Any]:
    rng = random.Random(0)
    data = batch(net, size)
    space = net.space
    archs = [space.largest, space.smallest, *(space.sample(rng) for _ in range(6))]
    optimise = optimizer(net)
    sandwich_step(net.train(), archs[:2], optimise, *data, bound=True)  # warm-up, and the optimizer's state
    steps = [step_round(net, optimise, rng, data, clock) for _ in range(rounds)]
    forwards = forward_round(net, archs, data[0], clock, repeats=max(3, rounds))
    return {
        "params": sum(parameter.numel() for parameter in net.parameters()),
        "forward": ratios(forwards) | {"plain_ms": 1e3 * statistics.median(row["plain"] for row in forwards)},
        "step": ratios(steps) | {"plain_ms": 1e3 * statistics.median(row["plain"] for row in steps)},
        "step_pure": ratios(steps, "pure"),
        "bind_ms": 1e3 * statistics.median(row["bind"] for row in steps),
    }


def environment(device: torch.device) -> dict[str, Any]:
    name = torch.cuda.get_device_name() if device.type == "cuda" else platform.processor() or platform.machine()
    return {
        "torch": torch.__version__,
        "python": platform.python_version(),
        "device": f"{device.type} ({name})",
        "threads": 1,
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--smoke", action="store_true", help="two rounds of the small scale; nothing is written")
    parser.add_argument("--device", choices=["cpu", "cuda"], default="cpu")
    parser.add_argument("--scale", choices=["small", "full"], default="small")
    parser.add_argument("--rounds", type=int, default=15)
    parser.add_argument("--batch", type=int, default=64)
    options = parser.parse_args()
    torch.set_num_threads(1)
    device = torch.device(options.device)
    scale, rounds, size = ("small", 2, 8) if options.smoke else (options.scale, options.rounds, options.batch)
    result: dict[str, Any] = {"scale": scale, "batch": size, "rounds": rounds, **environment(device)}
    print(f"{'':6} {'forward':>22} {'sandwich step':>22} {'pure step':>10} {'bind':>9}")
    for family, net in families(scale).items():
        row = result[family] = measure(net.to(device), rounds=rounds, size=size, clock=Clock(device))
        cells = ["{ratio:.3f} ({q1:.3f}..{q3:.3f})".format(**row[part]) for part in ("forward", "step")]
        print(
            f"{family:6} {cells[0]:>22} {cells[1]:>22} {row['step_pure']['ratio']:>10.3f} {row['bind_ms']:>6.2f} ms",
            flush=True,
        )
    if not options.smoke:
        with (Path(__file__).parent / "results.jsonl").open("a") as file:
            file.write(json.dumps(result) + "\n")
    print(json.dumps(result))


if __name__ == "__main__":
    main()
