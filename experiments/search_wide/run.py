"""How much of the hypervolume does a search find with 40 to 100 decisions?  See README.md.

    python experiments/search_wide/run.py --runs FOLDER [--seeds 10] [--problems NAME …] [--searches NAME …]
    python experiments/search_wide/run.py --runs FOLDER --report
    python experiments/search_wide/run.py --smoke

Runs are files in the folder, and what is there is not repeated.  Prints one JSON line last.
"""

from __future__ import annotations

import os
import sys
from pathlib import Path

os.environ.setdefault("OMP_NUM_THREADS", "1")
sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from problems import problems
from search_common.runs import main, parser

MARKS = (25, 50, 100, 200)


if __name__ == "__main__":
    main(parser(__doc__).parse_args(), problems(), MARKS, smoke="additive 40", smoke_evaluations=25)
