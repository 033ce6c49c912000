"""Settings of every test: one torch thread, no Ray authentication files in the user's home, Ctrl-C that arrives."""

from __future__ import annotations

import gc
import os
import signal
import tempfile
from collections.abc import Generator, Iterator
from typing import TYPE_CHECKING

import pytest
from hypothesis import HealthCheck, settings

if TYPE_CHECKING:
    from tests.conformance.postgres_server import PostgresServer

os.environ.setdefault("OMP_NUM_THREADS", "1")
os.environ.setdefault("RAY_AUTH_MODE", "disabled")
os.environ.setdefault("MPLBACKEND", "Agg")
os.environ["NAS_WAIT_S"] = "0"  # a test does not depend on what else the machine does
# What commands note of the user's jobs stays out of the user's home.
os.environ["XDG_STATE_HOME"] = tempfile.mkdtemp(prefix="nas-state-")
# Whoever starts the tests in the background (a shell's &, nohup) has these ignored, in every process that they start too.
signal.signal(signal.SIGINT, signal.default_int_handler)
signal.signal(signal.SIGHUP, signal.SIG_DFL)


# How long an example takes says something about the machine.
settings.register_profile("unhurried", deadline=None, suppress_health_check=[HealthCheck.too_slow])
settings.load_profile("unhurried")


@pytest.hookimpl(wrapper=True)
def pytest_collection() -> Generator[None, object, object]:
    """What is made here is kept, so that a garbage collection finds nothing and takes a third of the time."""
    gc.disable()
    try:
        return (yield)
    finally:
        gc.enable()


def pytest_collection_finish() -> None:
    """Leave what all tests need (modules, tests) to no garbage collection: each would look at millions of objects again.

    What tests import later (parts of torch and sympy) is looked at again and again too, so that collections are rarer
    than after 700 new objects.
    """
    gc.collect()
    gc.freeze()
    gc.set_threshold(20_000, 10, 10)


@pytest.fixture(scope="session")
def server() -> Iterator[PostgresServer]:
    """A PostgreSQL of this test session's own."""
    from tests.conformance.postgres_server import serve

    yield from serve(pytest.fail, pytest.skip)
