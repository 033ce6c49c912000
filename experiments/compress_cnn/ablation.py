"""Do layers of the original teach a network of half of the operations more than its outputs alone?

    python experiments/compress_cnn/ablation.py --glyphs FILE --runs FOLDER

tunes the uniform network whose streams of features are whole, with several weights of `nas.Trained(hidden=)`; goes on where it
stopped; --smoke takes seconds.  One JSON line last.  See README.md.
"""

from __future__ import annotations

import argparse
import json
import statistics
import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parent))
sys.path.insert(0, str(Path(__file__).parent.parent))

from run import LEARNT, data, original
from runs_common.folder import opened

import nas
from nas.compressing.uniform import ladder, largest_within
from nas.train import as_supernet


def narrowed(net: nas.Supernet, share: float) -> nas.Arch:
    """The largest network within a share of the operations that is uniform inside its blocks, whose streams are whole."""
    space, whole = net.space, net.space.largest
    archs = []
    for one in ladder(space):
        inside = {name: value for name, value in one.choices.items() if name.endswith(".hidden")}
        archs.append(space.arch({**whole.choices, **inside}))
    found = largest_within(list(dict.fromkeys(archs)), net.macs, share * net.macs(whole))
    assert found is not None
    return found


def tuned(options: argparse.Namespace, seed: int, hidden: float, folder: Path) -> float:
    """Accuracy on the test split."""
    file = folder / f"hidden {hidden:g}, {seed}.txt"
    if not file.exists():
        task, module = data(options, seed), original(data(options, 0, LEARNT), folder, options.smoke)
        space = nas.elastic(module, task.example)
        net = nas.Supernet(space, example=task.example, weights=module)
        nas.reorder(net, by="group_fisher", task=task)
        trained = nas.Trained(
            task,
            folder / f"tuned-{seed}",
            epochs=options.epochs,
            start=net,
            teacher=net,
            hidden=hidden or None,
            outputs=None if hidden else nas.TeacherOutputs(folder / "outputs"),
            lr=1e-3,
        )
        arch = narrowed(net, 0.5)
        trained(arch)
        best = trained.extract(arch)
        quality = nas.Accuracy(as_supernet(best, example=task.example), task, split="test")
        file.write_text(str(quality.measure_module(best)["accuracy"]))
        print(file.stem, file.read_text(), flush=True)
    return float(file.read_text())


def main() -> None:
    """Runs what is asked for and prints the figures."""
    words = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    words.add_argument("--glyphs", type=Path)
    words.add_argument("--runs", type=Path)
    words.add_argument("--seeds", type=int, default=3)
    words.add_argument("--epochs", type=int, default=6)
    words.add_argument("--hidden", type=float, nargs="+", default=[0.0, 1.0, 10.0])
    words.add_argument("--smoke", action="store_true")
    options = words.parse_args()
    if options.smoke:
        options.seeds, options.epochs, options.hidden = 1, 1, [0.0, 1.0]
    with opened(options, words, needs=["glyphs"], free=["hidden"]) as folder:
        figures = {}
        for hidden in options.hidden:
            each = [tuned(options, seed, hidden, folder) for seed in range(options.seeds)]
            figures[f"{hidden:g}"] = {"mean": round(statistics.mean(each), 4), "each": [round(one, 4) for one in each]}
    print(json.dumps(figures))


if __name__ == "__main__":
    main()
