"""Failed trials are evaluated again: when that is asked for, and once by itself after a run that failures stopped.

A run that ends because its evaluations fail leaves a note: which trials, why, and a digest of the code that evaluated.  The next
run begins with these trials if that code has changed, or they have not been tried again yet: a disk may have room again.
Otherwise they stay FAILED and the run goes on with new archs, so that nothing is tried again for ever.
"""

from __future__ import annotations

import hashlib
import json
import sys
from collections import Counter
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from nas.errors import StoreError, StudyError, brief
from nas.store.filters import in_state
from nas.study.owner import is_gone

if TYPE_CHECKING:
    from nas.store import StudyRecord

STOPPED = "stopped_by_failures"
FAILED = in_state("FAILED")


def source_of(job: str | None, identity: Mapping[str, Any]) -> str:
    """A digest of what evaluates: evaluators as they are told, the job's file, and the modules imported from its folder."""
    digest = hashlib.blake2b(json.dumps(identity, sort_keys=True).encode(), digest_size=16)
    for path in _files(job):
        try:
            digest.update(path.read_bytes())
        except OSError:
            continue
    return digest.hexdigest()


def _files(job: str | None) -> list[Path]:
    target = (job or "").partition(":")[0]
    if not target:
        return []
    module = sys.modules.get(target)
    file = Path(str(getattr(module, "__file__", None) or target)).resolve()
    folder = file.parent
    found = {file}
    for one in list(sys.modules.values()):
        origin = getattr(one, "__file__", None)
        path = Path(origin).resolve() if isinstance(origin, str) else None
        if path is not None and folder in path.parents and not {"site-packages", ".venv"}.intersection(path.parts):
            found.add(path)
    return sorted(found)


def note_stop(record: StudyRecord, numbers: Sequence[int], reason: str, source: str) -> None:
    """Note that failures of these trials stopped a run."""
    before = record.notes().get(STOPPED) or {}
    again = before.get("source") == source and bool(set(before.get("trials", ())).intersection(numbers))
    stop = {"trials": sorted(numbers), "reason": brief(reason, 500), "source": source, "again": again}
    record.annotate({STOPPED: stop})


def note_end(record: StudyRecord, source: str) -> None:
    """Note that a run came to its end: with failures alone, which the next one tries again, or with something that it found."""
    counts = record.counts()
    if counts["FAILED"] and not counts["COMPLETED"] + counts["INFEASIBLE"]:
        numbers = failed(record)
        note_stop(record, numbers, reasons(record, numbers)[0][0], source)
    elif record.notes().get(STOPPED):
        record.annotate({STOPPED: {}})


def begin(record: StudyRecord, source: str, *, every: bool) -> str:
    """Make the trials wait that this run is to try again; a sentence on it, "" where there are none.

    Args:
        record: the study.
        source: `source_of` this run.
        every: all FAILED trials, whatever was noted.

    Raises:
        StoreError: `every`, and another run works on the study.
    """
    counts = record.counts()
    if not counts["FAILED"]:
        return ""
    stopped = record.notes().get(STOPPED) or {}
    numbers = failed(record) if every else [int(number) for number in stopped.get("trials", ())]
    left = set(failed(record))
    numbers = [number for number in numbers if number in left]
    if not numbers:
        return ""
    edited = stopped.get("source") != source
    if not every and not edited and stopped.get("again"):
        return (
            f"{len(numbers)} trials that stopped the last run stay FAILED: this job tried them again already; "
            f"'nas retry {record.name}' has them tried once more"
        )
    why = "asked for" if every else "the job changed" if edited else "the run was stopped by failures"
    try:
        record.retry(numbers, why, is_gone)
    except StoreError:
        if every:
            raise
        return ""  # another run works on the study; it is not disturbed
    was = "" if every else f", which failed with: {stopped.get('reason', '')}"
    return f"{len(numbers)} FAILED trial{'s are' * (len(numbers) > 1) or ' is'} tried again ({why}){was}"


def failed(record: StudyRecord, where: str | None = None, reason: str | None = None) -> list[int]:
    """Numbers of the FAILED trials that satisfy a filter, and whose reason contains a text, whatever its case."""
    found = record.trials(where=in_state("FAILED", where), columns=["reason"])
    return [
        int(number)
        for number, why in zip(found.index, found["reason"], strict=True)
        if reason is None or reason.casefold() in str(why).casefold()
    ]


def reasons(record: StudyRecord, numbers: Sequence[int]) -> list[tuple[str, int]]:
    """Why trials failed and how many did so, most frequent first."""
    found = record.trials(where=FAILED, columns=["reason"])["reason"]
    return Counter(str(found.get(number)) for number in numbers).most_common()


def fruitless(record: StudyRecord) -> StudyError | None:
    """What is wrong with a study of which trials failed and none succeeded; None otherwise."""
    counts = record.counts()
    if counts["COMPLETED"] or not counts["FAILED"]:
        return None
    first = record.trials(where=FAILED, columns=["reason"], limit=1)
    (number,), (reason,) = first.index, first["reason"]
    others = f", {counts['INFEASIBLE']} are INFEASIBLE" if counts["INFEASIBLE"] else ""
    return StudyError(
        f"no trial of study {record.name!r} succeeded: {counts['FAILED']} FAILED{others}; the first, trial {number}, with: "
        f"{reason}; mend the job and give the same command again, which then tries them again"
    )


def no_front(record: StudyRecord, where: str | None) -> str:
    """Why a front is empty: trials failed, none is feasible, or there are none yet."""
    if (fault := fruitless(record)) is not None:
        return str(fault)
    states = ", ".join(f"{count} {state}" for state, count in record.counts().items() if count)
    return (
        f"study {record.name!r} has no feasible trial{f' where {where}' if where else ''} "
        f"({states or 'no trials yet; run it first'})"
    )


def tries(record: StudyRecord, number: int) -> int:
    """How often a trial was tried."""
    from nas.store.notes import TRIES

    return 1 + len(record.notes(number).get(TRIES, ()))
