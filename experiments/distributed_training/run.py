"""Do two processes train the supernet that one trains, what does a step take, and what does a kill repeat?  See README.md.

python experiments/distributed_training/run.py [--smoke] [--seeds 3] [--device cpu|cuda] [--scale small|full]
"""

from __future__ import annotations

import argparse
import contextlib
import dataclasses
import json
import multiprocessing as mp
import os
import random
import signal
import statistics
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

ROOT = Path(__file__).parents[2]
sys.path.insert(0, str(ROOT))
os.environ.setdefault("OMP_NUM_THREADS", "1")
os.environ.setdefault("GLOO_SOCKET_IFNAME", "lo")
os.environ.setdefault("TORCH_CPP_LOG_LEVEL", "FATAL")

import torch  # noqa: E402
from torch import Tensor, distributed  # noqa: E402

import nas  # noqa: E402
import nas.distributed  # noqa: E402
from nas import files  # noqa: E402
from nas.train import Batch, Classification, Sampler, Sandwich, Training, digits, loop  # noqa: E402
from nas.train.ranks import Group, Ranks  # noqa: E402
from searchspaces import conv, vit  # noqa: E402

torch.set_num_threads(1)
RATES: Mapping[str, float] = {"sgd": 0.05, "adamw": 2e-3}


@dataclasses.dataclass(frozen=True)
class Plan:
    """How much of everything."""

    device: str = "cpu"
    scale: str = "small"
    seeds: int = 3
    steps: int = 50
    rounds: int = 5
    timed: int = 12
    batches: tuple[int, ...] = (64, 256)
    families: tuple[str, ...] = ("conv", "vit")
    optimizers: tuple[str, ...] = ("sgd", "adamw")
    parts: tuple[str, ...] = ("equality", "time", "kills")


# -- what is trained ----------------------------------------------------------------------------------------------------


def supernet(family: str, plan: Plan, seed: int) -> nas.Supernet:
    """For 8×8 digits (small, or smoke with few choices), or 32×32 images (full: 1 M and 5 M parameters, as in supernet_speed)."""
    if plan.scale == "smoke":
        return vit.supernet(vit.space(widths=(32, 48), depths=(1, 2), heads=(2, 3), ratios=(1, 2)), seed=seed)
    if plan.scale == "small":
        return conv.supernet(seed=seed) if family == "conv" else vit.supernet(seed=seed)
    if family == "conv":
        return conv.supernet(
            conv.space(widths=((24, 32), (48, 64), (96, 128)), stem=24, channels=3), side=32, seed=seed
        )
    deep = {"depths": (4, 5, 6), "heads": (2, 3, 4), "ratios": (2, 3, 4), "head": 64, "side": 32, "patch": 4}
    return vit.supernet(vit.space(widths=(192, 256), channels=3, **deep), seed=seed)


def task(plan: Plan, batch: int, seed: int) -> Classification:
    """The digits; at full scale noise of the size of CIFAR's images.  Accuracy is no question here, and is hardly measured."""
    if plan.scale != "full":
        made = digits(batch=batch, seed=seed, shift=1)
        few = {name: tuple(one[:32] for one in getattr(made, name)) for name in ("valid", "test")}
        return dataclasses.replace(made, calibration=32, **few)
    draw = torch.Generator().manual_seed(seed)
    parts = [
        (torch.randn(n, 3, 32, 32, generator=draw), torch.randint(10, (n,), generator=draw)) for n in (4096, 32, 32)
    ]
    return Classification(*parts, batch=batch, seed=seed, calibration=32)


@dataclasses.dataclass(frozen=True, eq=False)
class Reversed(Classification):
    """The same batches, the samples of each in reverse: the same mathematics, added up in another order."""

    def train_batches(self, epoch: int) -> Iterator[Batch]:
        """Those of the other task, turned round."""
        for batch in super().train_batches(epoch):
            yield Batch(batch.inputs.flip(0), batch.targets.flip(0))


def fields(made: Classification, **changed: Any) -> dict[str, Any]:
    return {field.name: getattr(made, field.name) for field in dataclasses.fields(made)} | changed


def training(
    family: str, optimizer: str, seed: int, plan: Plan, *, double: bool = False, backwards: bool = False, **options: Any
) -> Training:
    """A sandwich of four archs with in-place distillation a step, on batches of 64."""
    made = task(plan, options.pop("batch", 64), seed)
    net = supernet(family, plan, seed)
    if double:
        net = net.double()
        parts = {
            name: (data[0].double(), data[1]) for name in ("train", "valid", "test") if (data := getattr(made, name))
        }
        made = Classification(**fields(made, **parts))
    if backwards:
        made = Reversed(**fields(made))
    settings = {
        "steps": plan.steps,
        "optimizer": optimizer,
        "lr": RATES[optimizer],
        "seed": seed,
        "precision": "float32",
    }
    settings |= {"validate_every": 10**9, "checkpoint_every": 10**9, "device": here(plan)}
    return Training(net, made, **{**settings, **options})


def here(plan: Plan) -> str:
    """This process's device: a GPU each, where there are enough."""
    return f"cuda:{distributed.get_rank() if distributed.is_initialized() else 0}" if plan.device == "cuda" else "cpu"


# -- several processes ---------------------------------------------------------------------------------------------------


def in_ranks(size: int, function: Callable[..., Any], *given: Any) -> Any:
    """What `function` gives in the first of `size` processes that have joined a process group."""
    context = mp.get_context("spawn")
    with tempfile.TemporaryDirectory() as folder:
        processes = [context.Process(target=_join, args=(function, given, rank, size, folder)) for rank in range(size)]
        for process in processes:
            process.start()
        for process in processes:
            process.join()
        if any(process.exitcode for process in processes):
            raise SystemExit("a process failed; its own words are above")
        return torch.load(Path(folder) / "found.pt", weights_only=True)


def _join(function: Callable[..., Any], given: tuple[Any, ...], rank: int, size: int, folder: str) -> None:
    plan = next(one for one in given if isinstance(one, Plan))
    backend = "gloo" if plan.device == "cpu" else "cpu:gloo,cuda:nccl"
    if plan.device == "cuda":
        torch.cuda.set_device(rank)
    distributed.init_process_group(backend, init_method=f"file://{folder}/meeting", rank=rank, world_size=size)
    found = function(*given)
    if rank == 0:
        torch.save(found, Path(folder) / "found.pt")
    distributed.destroy_process_group()


# -- equality ------------------------------------------------------------------------------------------------------------

State = dict[str, Tensor]


def weights(made: Training, ranks: Ranks | None = None) -> State:
    """All parameters after the training."""
    made.run(progress=False, ranks=ranks)
    return {name: one.detach().cpu().clone() for name, one in made.supernet.named_parameters()}


def cases(plan: Plan) -> list[tuple[str, dict[str, Any]]]:
    """Name and arguments of every training that is compared; float64 once, where only the mathematics is left."""
    found = [
        (f"{family}/{optimizer}/{seed}", {"family": family, "optimizer": optimizer, "seed": seed})
        for family in plan.families
        for optimizer in plan.optimizers
        for seed in range(plan.seeds)
    ]
    exact = {"optimizer": "sgd", "seed": 0, "double": True}
    return [*found, *((f"{family}/float64/0", {"family": family, **exact}) for family in plan.families)]


def shared(plan: Plan) -> dict[str, State]:
    """Each training by all processes; for conv once more with BatchNorm left to each process."""
    found = {name: weights(training(plan=plan, **options), Group()) for name, options in cases(plan)}
    if "conv" not in plan.families:
        return found
    original, loop.synced = loop.synced, lambda *given: contextlib.nullcontext()  # noqa: ARG005
    try:
        for seed in range(plan.seeds):
            found[f"conv/own/{seed}"] = weights(training("conv", "sgd", seed, plan), Group())
    finally:
        loop.synced = original
    return found


def apart(left: State, right: State) -> float:
    """Largest difference of any parameter."""
    return max(float((left[name].double() - right[name].double()).abs().max()) for name in left)


def equality(plan: Plan, together: Mapping[str, State]) -> list[dict[str, Any]]:
    """Rows: family, optimizer, seed; the largest difference to one process, and the yardsticks."""
    rows = []
    for name, options in cases(plan):
        alone = weights(training(plan=plan, **options))
        turned = weights(training(plan=plan, backwards=True, **options))
        start = {
            key: one.detach() for key, one in supernet(options["family"], plan, options["seed"]).named_parameters()
        }
        row = {
            "case": name,
            "apart": apart(together[name], alone),
            "order": apart(turned, alone),
            "moved": apart(alone, start),
        }
        if name.startswith("conv/sgd"):
            row["own_norms"] = apart(together[name.replace("sgd", "own")], alone)
        rows.append(row)
        print(json.dumps(row), file=sys.stderr, flush=True)
    return rows


# -- time ----------------------------------------------------------------------------------------------------------------


class Watched(Sampler):
    """A sandwich that notes when each step begins."""

    def __init__(self) -> None:
        self.times: list[tuple[float, float]] = []

    def archs(self, space: nas.Space, step: int, rng: random.Random) -> list[nas.Arch]:
        """Largest, smallest and two others, the same in every round."""
        return Sandwich(2).archs(space, step, rng)

    def begin(self, supernet: nas.Supernet, optimizer: Any, step: int) -> None:  # noqa: ARG002
        """Looks at the clock, and at the time that this process has had a processor."""
        if supernet.device.type == "cuda":
            torch.cuda.synchronize()
        self.times.append((time.perf_counter(), time.process_time()))


def step_s(family: str, batch: int, plan: Plan, ranks: Ranks | None) -> tuple[float, float]:
    """Median time of a step, and of the processor's time in it; the first third is warm-up."""
    watched = Watched()
    training(family, "sgd", 0, plan, batch=batch, steps=plan.timed, sampler=watched).run(progress=False, ranks=ranks)
    pairs = list(zip(watched.times, watched.times[1:], strict=False))[plan.timed // 3 :]
    wall, work = ([after[which] - before[which] for before, after in pairs] for which in (0, 1))
    return statistics.median(wall), statistics.median(work)


def timed(plan: Plan) -> list[dict[str, Any]]:
    """One process and all of them in turns; the others wait at a barrier while one works alone."""
    rows = []
    for family in plan.families:
        for batch in plan.batches:
            for turn in range(plan.rounds):
                distributed.barrier()
                alone = step_s(family, batch, plan, None) if distributed.get_rank() == 0 else (0.0, 0.0)
                distributed.barrier()
                together = step_s(family, batch, plan, Group())
                row = {"one_s": alone[0], "all_s": together[0], "one_work_s": alone[1], "all_work_s": together[1]}
                rows.append({"family": family, "batch": batch, "turn": turn, **row})
    return rows


def in_each(plan: Plan) -> dict[str, Any]:
    """What needs several processes, in one of them."""
    return {
        "states": shared(plan) if "equality" in plan.parts else {},
        "times": timed(plan) if "time" in plan.parts else [],
    }


# -- kills ---------------------------------------------------------------------------------------------------------------


@dataclasses.dataclass(frozen=True)
class Mortal(Sandwich):
    """Before a step the second process is killed, once; every step is noted when it begins."""

    folder: str = "."
    at: int = 0

    def begin(self, supernet: nas.Supernet, optimizer: Any, step: int) -> None:  # noqa: ARG002
        """Notes, or dies."""
        rank = distributed.get_rank()
        mark = Path(self.folder) / "kill"
        if rank == 1 and step == self.at and mark.exists():
            mark.unlink()
            os.kill(os.getpid(), signal.SIGKILL)
        with (Path(self.folder) / f"steps-{rank}").open("a") as notes:
            notes.write(f"{step} {time.time()}\n")

    def describe(self) -> dict[str, Any]:
        """Without the folder."""
        return {"class": "Mortal"}


def killed(seed: int, plan: Plan) -> dict[str, Any]:
    """A training whose second process is killed at a random step, beside one that is left alone."""
    draw, every = random.Random(seed), 10
    at = draw.randrange(every, plan.steps - 5)
    with tempfile.TemporaryDirectory() as name:
        found = {}
        for kind in ("whole", "killed"):
            folder = Path(name) / kind
            folder.mkdir()
            if kind == "killed":
                (folder / "kill").touch()
            made = training(
                "conv",
                "adamw",
                seed,
                plan,
                path=folder / "run",
                sampler=Mortal(2, str(folder), at),
                checkpoint_every=every,
            )
            result = nas.distributed.run(made, 2, progress=False)
            found[kind] = {key: one.clone() for key, one in result.supernet.state_dict().items()}
        assert not (folder / "kill").exists()
        notes = [line.split() for line in (folder / "steps-0").read_text().splitlines()]
        steps, times = [int(step) for step, _ in notes], [float(at) for _, at in notes]
        again = next(place for place, step in enumerate(steps) if place and step <= steps[place - 1])
    return {
        "seed": seed,
        "killed_before_step": at,
        "steps_begun_again": len(steps) - len(set(steps)),
        "back_after_s": times[again] - times[again - 1],
        "bits_equal": all(torch.equal(found["whole"][key], found["killed"][key]) for key in found["whole"]),
    }


# -- all of it -----------------------------------------------------------------------------------------------------------


def largest(rows: list[dict[str, Any]], start: str, name: str) -> float | None:
    values = [row[name] for row in rows if row["case"].startswith(start) and name in row]
    return max(values) if values else None


def figures(rows: Mapping[str, list[dict[str, Any]]]) -> dict[str, Any]:
    """What the README shows."""
    found: dict[str, Any] = {"equality": {}, "time": {}}
    equal, times, kills = (rows.get(part, []) for part in ("equality", "time", "kills"))
    for case in dict.fromkeys(row["case"].rsplit("/", 1)[0] for row in equal):
        values = {name: largest(equal, f"{case}/", name) for name in ("apart", "order", "moved", "own_norms")}
        found["equality"][case] = {name: float(f"{value:.2g}") for name, value in values.items() if value is not None}
    for key in dict.fromkeys((row["family"], row["batch"]) for row in times):
        some = [row for row in times if (row["family"], row["batch"]) == key]
        ratios = [row["all_s"] / row["one_s"] for row in some]
        found["time"][f"{key[0]}, batch {key[1]}"] = {
            "one_ms": round(1000 * statistics.median(row["one_s"] for row in some), 1),
            "all_ms": round(1000 * statistics.median(row["all_s"] for row in some), 1),
            "ratio": round(statistics.median(ratios), 2),
            "from": round(min(ratios), 2),
            "to": round(max(ratios), 2),
            "work_ratio": round(statistics.median(row["all_work_s"] / row["one_work_s"] for row in some), 2),
        }
    if kills:
        found["kills"] = {
            "runs": len(kills),
            "killed_before_steps": [row["killed_before_step"] for row in kills],
            "steps_begun_again": [row["steps_begun_again"] for row in kills],
            "bits_equal": sum(row["bits_equal"] for row in kills),
            "back_after_s": round(statistics.median(row["back_after_s"] for row in kills), 1),
        }
    return found


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--smoke", action="store_true", help="seconds, to see that it runs; writes no results")
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--device", choices=("cpu", "cuda"), default="cpu")
    parser.add_argument("--scale", choices=("small", "full"), default="small")
    parser.add_argument("--rounds", type=int, default=5, help="turns of the timing")
    parser.add_argument("--only", choices=("equality", "time", "kills"), help="one part; the others' results stay")
    args = parser.parse_args()
    plan = Plan(args.device, args.scale, args.seeds, rounds=args.rounds)
    size = min(2, torch.cuda.device_count()) if args.device == "cuda" else 2
    if size < 2:
        plan = dataclasses.replace(plan, parts=("equality", "time"))
    if args.only:
        plan = dataclasses.replace(plan, parts=(args.only,))
    if args.smoke:
        small = {"families": ("vit",), "optimizers": ("sgd",), "parts": ("equality", "time"), "batches": (64,)}
        plan = dataclasses.replace(plan, scale="smoke", seeds=1, steps=2, rounds=1, timed=4, **small)
    made = in_ranks(size, in_each, plan) if set(plan.parts) & {"equality", "time"} else {}
    rows: dict[str, list[dict[str, Any]]] = {}
    if "equality" in plan.parts:
        rows["equality"] = equality(plan, made["states"])
    if "time" in plan.parts:
        rows["time"] = made["times"]
    if "kills" in plan.parts:
        rows["kills"] = [killed(seed, plan) for seed in range(plan.seeds)]
    setting = {"device": args.device, "scale": args.scale, "processes": size, "steps": plan.steps}
    if not args.smoke:
        rows = keep(f"{args.device}, {args.scale}", rows)
    print(json.dumps({**setting, **figures(rows)}))


def keep(setting: str, rows: dict[str, list[dict[str, Any]]]) -> dict[str, list[dict[str, Any]]]:
    """The rows of this run, and of earlier ones for the parts that it left out."""
    file = Path(__file__).with_name("results.json")
    kept = json.loads(file.read_text(encoding="utf-8")) if file.exists() else {}
    kept[setting] = {**kept.get(setting, {}), **rows}
    files.write(file, json.dumps(kept, indent=1) + "\n")
    found: dict[str, list[dict[str, Any]]] = kept[setting]
    return found


if __name__ == "__main__":
    main()
