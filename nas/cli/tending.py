"""The commands that change a study: retry, objectives, rename, delete."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from shlex import quote
from typing import TYPE_CHECKING, Annotated

from nas.cli.root import CHANGE, WORK, StoreOption, StudyArgument, WhereOption, app, text
from nas.cli.stores import reading, shown_of, store_hint
from nas.errors import NasError
from nas.text import printable

if TYPE_CHECKING:
    from nas.store import Store


@app.command(group=WORK)
def retry(
    study: StudyArgument,
    *,
    where: WhereOption = None,
    reason: Annotated[str | None, text] = None,
    dry_run: bool = False,
    store: StoreOption = None,
) -> None:
    """Let failed trials be tried again by the next 'nas run'; how each ended is kept.

    Args:
        where: only trials that satisfy this filter.
        reason: only trials whose reason contains this text.
        dry_run: say which, and change nothing.
    """
    from nas.cli.output import print_table, print_text
    from nas.study.owner import is_gone
    from nas.study.retrying import failed, reasons

    record = reading(store).open_study(study)
    numbers = failed(record, where, reason)
    if not numbers:
        chosen = f" where {where}" if where else ""
        chosen += f" for a reason with {reason!r}" if reason else ""
        print_text(f"study {study!r} has no FAILED trial{chosen}")
        return
    found = reasons(record, numbers)
    if not dry_run:
        record.retry(numbers, "asked for", is_gone)
    print_table(["failed", "reason"], [[count, why] for why, count in found])
    some = ", ".join(map(str, numbers[:10])) + (f" and {len(numbers) - 10} more" if len(numbers) > 10 else "")
    if dry_run:
        print_text(f"would be tried again: {some}")
        return
    job = record.settings.get("job")
    print_text(f"{len(numbers)} trial{'s' * (len(numbers) > 1)} of study {study!r} wait to be tried again: {some}")
    print_text(f"evaluate them with: nas run {quote(str(job or 'JOB'))}{store_hint(shown_of(store))}")


@app.command(group=CHANGE)
def objectives(study: StudyArgument, objectives: Annotated[str, text], *, store: StoreOption = None) -> None:
    """Give a study other objectives, of what all its completed trials have measured; its front is taken anew.

    Its job goes on when it declares the same. To look at another front only: nas front STUDY --objectives "...".

    Args:
        objectives: as in "max accuracy, min params"; the first one sorts the front.
    """
    from nas.cli.output import print_text
    from nas.metrics import parse_objectives
    from nas.study.owner import is_gone

    opened = reading(store)
    before = ", ".join(map(str, opened.open_study(study).objectives))
    record = opened.change_objectives(study, parse_objectives(objectives), is_gone)
    after = ", ".join(map(str, record.objectives))
    print_text(f"study {study!r} had {before} and has {after} now; {len(record.front())} trials are on the front")


@app.command(group=CHANGE)
def rename(study: StudyArgument, new: Annotated[str, text], *, store: StoreOption = None) -> None:
    """Give a study another name, with its low evaluations; its job goes on with 'nas run JOB --name NEW'.

    Args:
        new: name that no study of the database has.
    """
    from nas.cli import own
    from nas.cli.output import print_text
    from nas.study.owner import is_gone

    opened = reading(store)
    levels = opened.levels(study)
    heirs = _heirs(opened, study, levels)
    opened.rename_study(study, new, is_gone)
    job = own.recall("job", opened.place, study)
    if job is not None:
        own.remember("job", opened.place, new, job)
        own.forget("job", opened.place, study)
    its = "".join(f", its low evaluations {level!r}" for level in opened.levels(new)) if levels else ""
    print_text(f"study {study!r} is now called {new!r}{its}{_inherited(heirs)}")


@app.command(group=CHANGE)
def delete(study: StudyArgument, *, yes: bool = False, store: StoreOption = None) -> None:
    """Delete a study with all of its trials, its low evaluations among them; asks first.

    Args:
        yes: do not ask.
    """
    from nas.cli import own
    from nas.cli.output import print_text
    from nas.study.owner import is_gone

    opened = reading(store)
    levels = opened.levels(study)
    what = f"its {_size(opened, study)} trials"
    what += "".join(f" and its {_size(opened, level)} low evaluations (study {level!r})" for level in levels)
    heirs = _heirs(opened, study, levels)
    if not yes and not _agreed(f"delete study {study!r} with {what} from {shown_of(store)}? [y/N] "):
        raise NasError(f"study {study!r} was not deleted; answer y, or give --yes")
    opened.delete_study(study, is_gone)
    own.forget("job", opened.place, study)
    print_text(f"deleted study {study!r} with {what}{_inherited(heirs)}")


def _heirs(opened: Store, study: str, levels: Sequence[str]) -> list[str]:
    return sorted({heir for one in (study, *levels) for heir in opened.heirs(one)})


def _size(opened: Store, study: str) -> int:
    return sum(opened.open_study(study).counts().values())


def _agreed(question: str) -> bool:
    sys.stderr.write(printable(question))
    sys.stderr.flush()
    return sys.stdin.readline().strip().lower() in ("y", "yes")


def _inherited(heirs: Sequence[str]) -> str:
    """What becomes of the studies that learnt from one that has another name, or none, now."""
    if not heirs:
        return ""
    names = ", ".join(map(repr, heirs))
    return f"; {names} began with its trials and keep{'s' * (len(heirs) == 1)} them under the old name"
