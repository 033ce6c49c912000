"""How much of the hypervolume does a search find that composes archs of single replacements?  See README.md.

    python experiments/compose_tables/run.py --tables FOLDER --runs FOLDER [--seeds 10] [--searches NAME …]
    python experiments/compose_tables/run.py --runs FOLDER --report
    python experiments/compose_tables/run.py --smoke

Runs are files in the folder, and what is there is not repeated.  Prints one JSON line last.
"""

from __future__ import annotations

import os
import sys
from pathlib import Path

os.environ.setdefault("OMP_NUM_THREADS", "1")
sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from problems import exact, problems
from search_common.runs import main, parser

from searchspaces.nasbench201_table import Table

MARKS = (30, 50, 100, 150, 200)
SEARCHES = ("compose", "surrogate", "nsga2", "linas", "random")


if __name__ == "__main__":
    options = parser(__doc__, SEARCHES)
    options.add_argument("--tables", type=Path, help="folder with the tables of NAS-Bench-201")
    args = options.parse_args()
    table = Table(args.tables, "c10_test_200", None) if args.tables else None
    main(args, problems(table), MARKS, smoke="additive", smoke_evaluations=30, also={"exact": exact})
