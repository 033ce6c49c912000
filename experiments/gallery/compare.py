"""Are the smallest and the largest network of a job's front as good as the same networks trained alone?  See README.md.

    python experiments/gallery/compare.py JOB [--smoke]

JOB is a file beside this one, without ".py".  Trains its supernet, searches it, trains both networks alone with as many steps,
and prints a JSON line (a full run adds it to results.jsonl).  What is in runs/ already is not done again.
"""

from __future__ import annotations

import argparse
import copy
import json
import re
import tempfile
import time
from pathlib import Path
from typing import Any

import torch
from torch import nn
from torch.optim.swa_utils import update_bn

import nas
from nas.study.job import load_job
from nas.train import subnet_metrics

HERE = Path(__file__).parent
PRETRAINED = {"encoder"}
"""Jobs whose model comes with weights: alone, too, its networks start from them."""


def compare(job: str, smoke: bool = False) -> dict[str, Any]:
    """Figures of one job; `smoke` does a few steps and trials of a copy that writes into a temporary folder."""
    if not smoke:
        return _compare(job, HERE / f"{job}.py")
    with tempfile.TemporaryDirectory() as folder:
        return _compare(job, shortened(job, Path(folder)))


def shortened(job: str, folder: Path) -> Path:
    """A copy of the job that trains one step, tries 2 networks and writes into `folder`."""
    source = (HERE / f"{job}.py").read_text(encoding="utf-8")
    for pattern, short in ((r"steps=[\d_]+", "steps=1"), (r"trials=\d+", "trials=2"), ('"runs/', f'"{folder}/')):
        source, found = re.subn(pattern, short, source)
        assert found, f"{job}.py has no {pattern}"
    copy = folder / f"{job}.py"
    copy.write_text(source, encoding="utf-8")
    return copy


def _compare(job: str, path: Path) -> dict[str, Any]:
    start = time.process_time()
    study = load_job(str(path))
    supernet, task = study.training.supernet, study.training.task
    untrained = copy.deepcopy(supernet.state_dict()) if job in PRETRAINED else None
    study.training.run(progress=False)
    study.run(workers=0, progress=False)
    front = study.front().sort_values("params")
    found: dict[str, Any] = {"job": job, "networks": len(front), "steps": study.training.steps}
    name, split = task.metric_names[0], "test" if task.test is not None else "valid"
    archs = {which: study.arch(int(front.index[row])) for which, row in (("smallest", 0), ("largest", -1))}
    for which, arch in archs.items():
        found[which] = {
            "params": supernet.params(arch),
            "shared": round(subnet_metrics(supernet, arch, task, split)[name], 4),
        }
    if untrained is not None:
        supernet.load_state_dict(untrained)
    for which, arch in archs.items():
        torch.manual_seed(1)
        network = supernet.space.build(arch) if untrained is None else supernet.extract(arch)
        found[which]["alone"] = round(alone(network, study.training)[name], 4)
    return {**found, "metric": name, "split": split, "cpu_seconds": round(time.process_time() - start)}


def alone(model: nn.Module, training: nas.Training) -> dict[str, float]:
    """Metrics of `model` after an ordinary loop with the settings of `training`: batches, schedule, optimizer, clipping."""
    task = training.task
    decayed = [one for one in model.parameters() if one.ndim >= 2]
    free = [one for one in model.parameters() if one.ndim < 2]
    groups = [{"params": decayed, "weight_decay": training.weight_decay}, {"params": free, "weight_decay": 0.0}]
    optimizer = torch.optim.AdamW(groups, lr=training.schedule.lr)
    model.train()
    step, epoch = 0, 0
    while step < training.steps:
        for batch in task.train_batches(epoch):
            if step == training.steps:
                break
            for group in optimizer.param_groups:
                group["lr"] = training.schedule(step)
            optimizer.zero_grad()
            task.loss(called(model, batch.inputs), batch).backward()
            nn.utils.clip_grad_norm_(model.parameters(), training.clip or float("inf"))
            optimizer.step()
            step += 1
        epoch += 1
    if any(isinstance(one, nn.modules.batchnorm._BatchNorm) for one in model.modules()):
        with torch.no_grad():
            update_bn(task.calibration_inputs(), model)
    split = "test" if task.test is not None else "valid"
    return task.evaluate(lambda inputs: called(model.eval(), inputs), split)


def called(model: nn.Module, inputs: Any) -> Any:
    """What `model` gives for inputs by name, by place, or of one tensor."""
    if isinstance(inputs, dict):
        return model(**inputs)
    return model(*inputs) if isinstance(inputs, tuple) else model(inputs)


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("job", help="a file beside this one, without .py")
    parser.add_argument("--smoke", action="store_true", help="a few steps and trials, nothing kept")
    options = parser.parse_args()
    line = json.dumps(compare(options.job, options.smoke))
    if not options.smoke:
        with (HERE / "results.jsonl").open("a", encoding="utf-8") as rows:
            rows.write(line + "\n")
    print(line)
