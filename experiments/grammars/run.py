"""Spaces that are grammars: is it worth to begin with networks that work, and do layers found in one network suit others?

    python experiments/grammars/run.py einspace --glyphs FILE --runs FOLDER
    python experiments/grammars/run.py evonorm --runs FOLDER

go on where they stopped; --report prints the figures of the runs; --smoke takes seconds.  One JSON line last.  See README.md.
"""

from __future__ import annotations

import argparse
import json
import os
import sys
from pathlib import Path

os.environ.setdefault("OMP_NUM_THREADS", "1")
sys.path.insert(0, str(Path(__file__).parents[2]))
sys.path.insert(0, str(Path(__file__).parents[1]))
sys.path.insert(0, str(Path(__file__).parent))

import derivations
import layers
from runs_common.folder import opened

from searchspaces import evonorm

PARTS = {"einspace": derivations, "evonorm": layers}


def main() -> None:
    """Runs what is asked for and prints the figures."""
    words = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    words.add_argument("parts", nargs="*", choices=[*PARTS, []], help="default: all")
    words.add_argument("--glyphs", type=Path, help="glyphs.npz, see ../glyphs/README.md")
    words.add_argument("--runs", type=Path, help="folder of the runs")
    words.add_argument("--report", action="store_true", help="only print the figures of the runs")
    words.add_argument("--smoke", action="store_true", help="seconds")
    words.add_argument("--seeds", type=int, default=3)
    words.add_argument("--evaluations", type=int, default=60, help="of each search of the grammar")
    words.add_argument("--epochs", type=int, default=3, help="of an evaluation")
    words.add_argument("--last", type=int, default=10, help="epochs of the best network, measured on the test split")
    words.add_argument("--lr", type=float, default=1e-2)
    words.add_argument("--batch", type=int, default=64)
    words.add_argument("--depth", type=int, default=5, help="of the grammar")
    words.add_argument("--ways", nargs="+", choices=list(derivations.WAYS), default=list(derivations.WAYS))
    words.add_argument("--layers", type=int, default=150, help="evaluations of each search of layers")
    words.add_argument("--nodes", type=int, default=6, help="of a layer")
    words.add_argument("--width", type=int, default=8, help="of the networks that layers are judged in")
    words.add_argument("--few", type=int, default=30, help="steps of the quick test")
    words.add_argument("--least", type=float, default=0.2, help="accuracy that passes it")
    words.add_argument("--steps", type=int, default=50, help="of an evaluation")
    words.add_argument("--long", type=int, default=100, help="steps before the test split")
    words.add_argument("--rate", type=float, default=1e-2, help="of learning, in networks of layers")
    words.add_argument("--known", nargs="+", choices=list(evonorm.KNOWN), default=list(evonorm.KNOWN))
    options = words.parse_args()
    if options.smoke:
        options.seeds, options.evaluations, options.epochs, options.last = 1, 4, 1, 1
        options.ways, options.known = ["seeded", "random"], ["bn-relu"]
        options.layers, options.few, options.steps, options.long = 3, 2, 2, 2
        options.least, options.width = 0.0, 4
    options.classes, found = 10 if options.smoke else 36, {}
    # Layers are judged on the digits: both parts have one folder, and this one needs no images.
    needs, free = ([], ["known", "glyphs"]) if options.parts == ["evonorm"] else (["glyphs"], ["known"])
    with opened(options, words, needs=needs, free=free) as folder:
        for name in options.parts or PARTS:
            if not options.report:
                PARTS[name].everything(options, folder)
            found[name] = PARTS[name].figures(folder)
    print(json.dumps(found))


if __name__ == "__main__":
    main()
