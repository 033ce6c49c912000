"""The commands, and how each ends.  Nothing heavy is imported before a command needs it: `--help` must answer at once."""

from __future__ import annotations

import os
import sys
from collections.abc import Sequence

from cyclopts import CycloptsError

# Each of these adds its commands to the application.
from nas import signals
from nas.cli import keeping, looking, measuring, running, taking  # noqa: F401
from nas.cli.root import app
from nas.cli.stores import close_all
from nas.errors import LONGEST, NasError, brief
from nas.text import printable

__all__ = ["app", "run"]


def run(arguments: Sequence[str]) -> int:
    """Run one command; the exit code: 0, 2 for a user's mistake, 130 for Ctrl-C, 143 for SIGTERM, 129 for SIGHUP."""
    try:
        with signals.raising():
            try:
                app(list(arguments), exit_on_error=False, print_error=True, result_action="return_value")
            finally:
                close_all()
    except CycloptsError:
        return 2  # cyclopts has printed what is wrong, with its suggestion
    except BrokenPipeError:  # `nas front ... | head`
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
    except NasError as error:
        sys.stderr.write(f"nas: {printable(brief(error, 2 * LONGEST))}\n")
        return 2
    except OSError as error:  # a full disk, a folder that may not be written
        said = f"{error.strerror or error}{f': {error.filename}' if error.filename else ''}"
        sys.stderr.write(f"nas: {printable(said)}\n")
        return 2
    except KeyboardInterrupt as error:
        try:
            sys.stderr.write(f"nas: {str(error) or 'interrupted'}; the same command goes on where it stopped\n")
        except OSError:  # the terminal was closed
            for file in (sys.stdout, sys.stderr):
                os.dup2(os.open(os.devnull, os.O_WRONLY), file.fileno())
        return signals.exit_code(error)
    return 0
