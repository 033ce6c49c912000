"""The command line `nas`: each command is one call of the library."""

from __future__ import annotations

import sys


def main() -> None:
    """Run the command line; a user's mistake is one sentence on standard error and exit code 2."""
    from nas.cli.app import run

    sys.exit(run(sys.argv[1:]))
