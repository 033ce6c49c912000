"""A command of `nas` in a process of its own, which leaves its exit code in a file: `python -m nas.cli.launch FILE WORDS…`."""

from __future__ import annotations

import json
import sys
import time

from nas import files
from nas.cli.app import run


def main() -> None:
    """Run it, and say how it ended."""
    file, *words = sys.argv[1:]
    code = 1
    try:
        code = run(words)
    finally:
        files.write(file, json.dumps({"code": code, "ended": time.time()}))
    sys.exit(code)


if __name__ == "__main__":
    main()
