"""The commands, and how each ends.  Nothing heavy is imported before a command needs it: `--help` must answer at once."""

from __future__ import annotations

import contextlib
import io
import os
import sys
from collections.abc import Sequence

from cyclopts import CycloptsError

# Each of these adds its commands to the application.
from nas import signals
from nas.cli import compressing, converting, keeping, looking, measuring, running, serving, taking, tending  # noqa: F401
from nas.cli.root import app
from nas.cli.stores import close_all
from nas.errors import LONGEST, NasError, brief
from nas.failures import describe
from nas.text import printable

__all__ = ["app", "run"]


def run(arguments: Sequence[str]) -> int:
    """Run one command; the exit code: 0, 2 for a user's mistake, 130 for Ctrl-C, 143 for SIGTERM, 129 for SIGHUP."""
    _prepare()
    try:
        with signals.raising():
            try:
                app(list(arguments), exit_on_error=False, print_error=True, result_action="return_value")
                sys.stdout.flush()  # a reader that is gone, or a full disk, is found here and not when Python ends
            finally:
                close_all()
    except CycloptsError:
        return 2  # cyclopts has printed what is wrong, with its suggestion
    except BrokenPipeError:  # `nas front ... | head`
        _drop_output()
    except SystemExit as ended:
        if not isinstance(ended.__context__, BrokenPipeError):  # of a job's code; the other is what rich makes of that
            sys.stderr.write(f"nas: the job's code ended the program: {printable(describe(ended))}\n")
            return 2
        _drop_output()
    except NasError as error:
        sys.stderr.write(f"nas: {printable(brief(error, 2 * LONGEST))}\n")
        return 2
    except OSError as error:  # a full disk, a folder that may not be written
        said = f"{error.strerror or error}{f': {error.filename}' if error.filename else ''}"
        sys.stderr.write(f"nas: {printable(said)}\n")
        if error.filename is None:
            _drop_output()
        return 2
    except KeyboardInterrupt as error:
        try:
            sys.stderr.write(f"nas: {str(error) or 'interrupted'}; the same command goes on where it stopped\n")
        except OSError:  # the terminal was closed
            for file in (sys.stdout, sys.stderr):
                os.dup2(os.open(os.devnull, os.O_WRONLY), file.fileno())
        return signals.exit_code(error)
    return 0


def _prepare() -> None:
    """Standard output and error that take any character: what their encoding lacks is written as an escape.

    One that is closed (`nas front STUDY >&-`) is none for Python; nobody reads what is written then.
    """
    for name in ("stdout", "stderr"):
        stream = getattr(sys, name)
        if stream is None:
            setattr(sys, name, open(os.devnull, "w", encoding="utf-8"))  # noqa: SIM115 (until the process ends)
        elif isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors="backslashreplace")


def _drop_output() -> None:
    """What could not be written is not tried again when Python ends."""
    with contextlib.suppress(OSError, ValueError):  # standard output may be no file at all
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
