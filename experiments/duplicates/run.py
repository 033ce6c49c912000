"""How many evaluations does a search waste on archs that measure what is known?  See README.md.

    python experiments/duplicates/run.py --tables FOLDER --runs FOLDER [--seeds 10] [--searches NAME …]
    python experiments/duplicates/run.py --tables FOLDER --runs FOLDER --report
    python experiments/duplicates/run.py --smoke

Runs are files in the folder, and what is there is not repeated.  Prints one JSON line last.
"""

from __future__ import annotations

import os
import sys
from pathlib import Path

os.environ.setdefault("OMP_NUM_THREADS", "1")
sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

import numpy as np
from problems import problems
from search_common.runs import main, parser

from searchspaces.nasbench201_table import Table

MARKS = (50, 100, 200)


def repeated(points: np.ndarray) -> float:
    """Share of evaluations whose values had all been measured before."""
    return 1.0 - len(np.unique(points, axis=0)) / len(points)


if __name__ == "__main__":
    options = parser(__doc__)
    options.add_argument("--tables", type=Path, help="folder with the tables of NAS-Bench-201")
    args = options.parse_args()
    table = Table(args.tables, "c10_test_200", None) if args.tables else None
    main(args, problems(table), MARKS, smoke="depths 2", smoke_evaluations=50, also={"repeated": repeated})
