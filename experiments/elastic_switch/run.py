"""What it costs to change the size of a network between two calls, and whether its outputs are those of the extracted one.

python experiments/elastic_switch/run.py [--smoke] [--device cpu|cuda] [--scale small|full] [--points 24] [--seeds 3]
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import random
import statistics
import tempfile
import time
from pathlib import Path
from typing import Any

os.environ.setdefault("OMP_NUM_THREADS", "1")

import torch

import nas
from searchspaces import vit


def supernet(scale: str, seed: int) -> nas.Supernet:
    """A vision transformer for 32×32 colour images: 20 M parameters (small), 86 M (full), 0.1 M (smoke)."""
    if scale == "smoke":
        space = vit.space(widths=(32, 48), depths=(1, 2), heads=(1, 2), ratios=(1, 2))
    elif scale == "small":
        space = vit.space(
            widths=(192, 288, 384),
            depths=(8, 10, 11),
            heads=(4, 5, 6),
            ratios=(2, 3, 4),
            head=64,
            side=32,
            patch=4,
            channels=3,
        )
    else:
        space = vit.space(
            widths=(384, 576, 768),
            depths=(8, 10, 12),
            heads=(6, 9, 12),
            ratios=(2, 3, 4),
            head=64,
            side=32,
            patch=4,
            channels=3,
        )
    return vit.supernet(space, seed=seed)


def front(net: nas.Supernet, count: int, rng: random.Random) -> list[tuple[nas.Arch, dict[str, float]]]:
    """Archs of every size; what they are worth is their size, so that a budget in MACs picks each of them."""
    space = net.space
    archs = dict.fromkeys([space.largest, space.smallest, *(space.sample(rng) for _ in range(count - 2))])
    return [(arch, {"accuracy": float(net.macs(arch)), "macs": net.macs(arch)}) for arch in archs]


def measure(net: nas.Supernet, points: int, switches: int, seed: int) -> dict[str, Any]:
    rng = random.Random(seed)
    archs = front(net, points, rng)
    device = net.device
    settle = torch.cuda.synchronize if device.type == "cuda" else lambda: None
    start = time.perf_counter()
    model = nas.ElasticModel(net, archs)
    ready_s = time.perf_counter() - start
    images = torch.randn(1, *net.example.shape[1:], generator=torch.Generator().manual_seed(seed)).to(device)

    largest_gap, switch, first, again = 0.0, [], [], []
    for point in model.points:
        model.switch_to(point)
        with torch.no_grad():
            gap = (model(images) - model.extract()(images)).abs().max()
        largest_gap = max(largest_gap, float(gap))
    for _ in range(switches):
        bound = rng.choice(model.points).measurements["macs"]
        settle()
        start = time.perf_counter()
        model.switch(macs=bound)
        switch.append(time.perf_counter() - start)
        for times in (first, again):  # the first call after a switch finds other weights in the caches
            start = time.perf_counter()
            model(images)
            settle()
            times.append(time.perf_counter() - start)

    extract = timed(lambda: net.extract(rng.choice(model.points).arch), 5)
    reload = reloading(net, model, 5)
    return {
        "params": sum(parameter.numel() for parameter in net.parameters()),
        "points": len(model.points),
        "largest_difference": largest_gap,
        "switch_ms": 1e3 * statistics.median(switch),
        "switch_p99_ms": 1e3 * sorted(switch)[int(0.99 * (len(switch) - 1))],
        "first_call_after_ms": 1e3 * statistics.median(first),
        "next_call_ms": 1e3 * statistics.median(again),
        "extract_ms": 1e3 * extract,
        "reload_ms": 1e3 * reload,
        "ready_s": ready_s,
        "extra_mib": model.extra_mib,
    }


def timed(work: Any, repeats: int) -> float:
    times = []
    for _ in range(repeats):
        start = time.perf_counter()
        work()
        times.append(time.perf_counter() - start)
    return statistics.median(times)


def reloading(net: nas.Supernet, model: nas.ElasticModel, repeats: int) -> float:
    """The usual way: a file for each size, of which one is loaded into a fresh module."""
    from safetensors.torch import load_model, save_model

    with tempfile.TemporaryDirectory() as folder:
        point = model.points[len(model.points) // 2]
        save_model(net.extract(point.arch), f"{folder}/m.safetensors")
        return timed(lambda: load_model(net.space.build(point.arch).to(net.device), f"{folder}/m.safetensors"), repeats)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--smoke", action="store_true", help="a tiny network, one seed; nothing is written")
    parser.add_argument("--device", choices=["cpu", "cuda"], default="cpu")
    parser.add_argument("--scale", choices=["small", "full"], default="small")
    parser.add_argument("--points", type=int, default=24)
    parser.add_argument("--seeds", type=int, default=3)
    options = parser.parse_args()
    torch.set_num_threads(1)
    scale, points, seeds, switches = (
        ("smoke", 4, 1, 20) if options.smoke else (options.scale, options.points, options.seeds, 200)
    )
    device = torch.device(options.device)
    rows = [measure(supernet(scale, seed).to(device), points, switches, seed) for seed in range(seeds)]
    print(
        f"{'seed':>4} {'params':>11} {'difference':>10} {'switch':>9} {'p99':>9} {'call after':>10} {'next':>9} {'reload':>9}"
    )
    for seed, row in enumerate(rows):
        print(
            f"{seed:>4} {row['params']:>11,} {row['largest_difference']:>10.2g} {row['switch_ms']:>6.3f} ms "
            f"{row['switch_p99_ms']:>6.3f} ms {row['first_call_after_ms']:>7.2f} ms {row['next_call_ms']:>6.2f} ms "
            f"{row['reload_ms']:>6.1f} ms"
        )
    name = torch.cuda.get_device_name() if options.device == "cuda" else platform.processor() or platform.machine()
    result = {
        "scale": scale,
        "device": f"{options.device} ({name})",
        "torch": torch.__version__,
        "threads": 1,
        "rows": rows,
    }
    if not options.smoke:
        with (Path(__file__).parent / "results.jsonl").open("a") as file:
            file.write(json.dumps(result) + "\n")
    print(json.dumps(result))


if __name__ == "__main__":
    main()
