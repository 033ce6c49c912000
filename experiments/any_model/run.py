"""How many models of others become supernets: each converted, cut to half of every width, and judged without help of
the conversion.

python experiments/any_model/run.py --source hf --rows runs/any_model
"""

from __future__ import annotations

import argparse
import json
import os
import re
import statistics
import warnings
from collections import Counter, defaultdict
from collections.abc import Callable, Iterable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import cases
import operators
import torch
from convert import TOOLS
from judge import CUT, DEEP, Row, judged, not_judged
from worker import forked

from nas import files

SILENT = ("wrong", "shape", "not slices", "supernet differs")
SMOKE = ("hand/mlp", "hand/conv_bn", "hand/lstm_tagger")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--tool", choices=sorted(TOOLS), default=next(reversed(TOOLS)))
    parser.add_argument("--source", choices=cases.SOURCES, nargs="*", default=cases.SOURCES)
    parser.add_argument("--filter", default="", help="regular expression of names")
    parser.add_argument(
        "--rows",
        type=Path,
        default=Path("runs/any_model"),
        help="folder: one file a model, what is there is not repeated",
    )
    parser.add_argument("--archs", type=int, default=5, help="random archs of each model")
    parser.add_argument("--jobs", type=int, default=1)
    parser.add_argument("--seconds", type=float, default=240, help="limit of each model")
    parser.add_argument("--gib", type=float, default=6, help="limit of each model")
    parser.add_argument("--repeat", default="", help="verdicts to judge again: a regular expression")
    parser.add_argument("--one", help="judge this model in the foreground and print its row")
    parser.add_argument(
        "--report", action="store_true", help="judge nothing: print and write the figures of all rows there are"
    )
    parser.add_argument("--smoke", action="store_true")
    arguments = parser.parse_args()
    warnings.simplefilter("ignore")
    torch.set_num_threads(1)
    os.environ.setdefault("HF_HUB_OFFLINE", "1")
    operators.declare()
    catalogue = cases.catalogue()
    convert = TOOLS[arguments.tool]
    if arguments.one:
        print(json.dumps(judged(catalogue[arguments.one], convert, arguments.archs)))
        return
    if arguments.smoke:
        rows = {name: judged(catalogue[name], convert, 1) for name in SMOKE}
        print(json.dumps(figures(arguments.tool, rows)))
        return
    names = [n for n in catalogue if n.split("/")[0] in arguments.source and re.search(arguments.filter, n)]
    folder = arguments.rows / arguments.tool
    if arguments.report:
        report(arguments.tool, folder, catalogue)
        return
    folder.mkdir(parents=True, exist_ok=True)
    preload()

    def one(name: str) -> Row:
        return remembered(
            folder / file_of(name),
            arguments.repeat,
            lambda: forked(
                lambda: judged(catalogue[name], convert, arguments.archs), seconds=arguments.seconds, gib=arguments.gib
            ),
            name,
        )

    with ThreadPoolExecutor(arguments.jobs) as pool:
        rows = dict(zip(names, pool.map(one, names), strict=True))
    print(json.dumps(figures(arguments.tool, rows)))


def file_of(name: str) -> str:
    return f"{name.replace('/', '__')}.json"


def report(tool: str, folder: Path, names: Iterable[str]) -> None:
    """Print the figures of the rows in `folder`, and put both beside this file."""
    rows = {
        name: json.loads((folder / file_of(name)).read_text(encoding="utf-8"))
        for name in names
        if (folder / file_of(name)).exists()
    }
    found = figures(tool, rows)
    lines = [json.dumps({"name": name, **row}) for name, row in rows.items()]
    files.write(Path(__file__).parent / "results.jsonl", "\n".join(lines) + "\n")
    print(json.dumps(found))


def preload() -> None:
    """Import before the forks what they would import each by itself."""
    for library in (*cases.LIBRARIES.values(), "nas.supernet"):
        if cases.there(library):
            __import__(library)


def remembered(path: Path, repeat: str, judge: Callable[[], Any], name: str) -> Row:
    """The row in `path`, unless it is to be judged again."""
    if path.exists():
        row: Row = json.loads(path.read_text(encoding="utf-8"))
        if not (repeat and re.search(repeat, row["verdict"])):
            return row
    result = judge()
    if not isinstance(result, dict):
        result = {"verdict": "hangs" if str(result).startswith("hangs") else "crashed", "why": str(result)}
    if "why" in result:
        result["why"] = anywhere(result["why"])
    files.write(path, json.dumps(result))
    unjudged = f"{count} random archs not judged" if (count := result.get("archs_not_judged")) else ""
    told = (result.get("left", ""), result.get("convert_s", ""), result.get("why", unjudged)[:150])
    print(f"{name:44s} {result['verdict']:12s} {told[0]:6} {told[1]:6} {told[2]}", flush=True)
    return result


def anywhere(said: str) -> str:
    """`said` with the last three parts of each path: rows are the same in any folder of any machine."""
    return re.sub(r"(?<![\w.])(?:/[\w.+-]+)*/((?:[\w.+-]+/){2}[\w.+-]+)", r"\1", said)


def figures(tool: str, rows: dict[str, Row]) -> dict[str, Any]:
    """Rates of all and by source, failures by class, and seconds."""
    tried = {name: row for name, row in rows.items() if row["verdict"] not in ("skipped", "broken")}
    failures = defaultdict(list)
    for name, row in tried.items():
        if row["verdict"] != "correct":
            failures[row["verdict"]].append(name)
    stages: dict[str, list[float]] = defaultdict(list)
    for row in tried.values():
        for stage, each in row.get("stages", {}).items():
            stages[stage].append(each)
    return {
        "tool": tool,
        **rates(tried.values()),
        "skipped": sum(row["verdict"] == "skipped" for row in rows.values()),
        "do_not_run_plain": [name for name, row in rows.items() if row["verdict"] == "broken"],
        "by_source": {
            source: rates(row for name, row in tried.items() if name.split("/")[0] == source)
            for source in cases.SOURCES
        },
        "failures": dict(failures),
        "above_deep": dict(Counter(map(holds_most, filter(is_shallow, tried.values()))).most_common()),
        **{name: spread(row[name] for row in tried.values() if name in row) for name in ("convert_s", "convert_s_cpu")},
        "stages_s": {stage: round(statistics.median(each), 3) for stage, each in stages.items()},
        "kinds": dict(sum((Counter(row.get("kinds", {})) for row in tried.values()), Counter())),
        "units": sum(row.get("units", 0) for row in tried.values()),
    }


def is_shallow(row: Row) -> bool:
    """Whether a model is correct and keeps more than what counts as deep."""
    return bool(row["verdict"] == "correct" and row["left"] > DEEP)


def holds_most(row: Row) -> str:
    """The reason for which most elements of a model stay on one of their axes."""
    return str(max(row["stays_whole"], key=lambda each: each[3])[0]) if row.get("stays_whole") else "nothing"


def spread(seconds: Iterable[float]) -> dict[str, float]:
    found = list(seconds)
    return {"median": statistics.median(found), "worst": max(found)} if found else {}


def rates(rows: Iterable[Row]) -> dict[str, Any]:
    rows = list(rows)
    if not rows:
        return {"models": 0}
    count = Counter(row["verdict"] for row in rows)
    silent = sum(count[verdict] for verdict in SILENT) + sum(row.get("random") in SILENT for row in rows)
    deep = sum(row["verdict"] == "correct" and row["left"] <= DEEP for row in rows)
    return {
        "models": len(rows),
        "correct": round(count["correct"] / len(rows), 4),
        "deep": round(deep / len(rows), 4),
        "silently_wrong": silent,
        "hangs": count["hangs"],
        "crashed": count["crashed"],
        "traceback": count["traceback"]
        + count["fails"]
        + sum(row.get("random") in ("traceback", "fails") for row in rows),
        "refused": count["refused"],
        f"left more than {CUT:.0%}": count["whole"],
        "random_archs": [sum(row.get("archs", 0) for row in rows), sum("archs" in row for row in rows)],
        "not_judged": sum(map(not_judged, rows)),
        "random_not_judged": sum(row.get("archs_not_judged", 0) for row in rows),
    }


if __name__ == "__main__":
    main()
