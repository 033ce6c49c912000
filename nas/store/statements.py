"""Every statement that writes a study or leads a write, in Core constructs that SQLite and PostgreSQL share."""

from __future__ import annotations

from collections.abc import Sequence

import sqlalchemy as sa
from sqlalchemy import bindparam as p

from nas.store.schema import (
    FINAL,
    device_measurements,
    devices,
    front,
    measurements,
    metrics,
    notes,
    spaces,
    studies,
    study_spaces,
    trials,
)
from nas.store.sql import Among, Insert, Statement, Update

_TRIAL = (trials.c.study_id == p("study"), trials.c.number == p("no"))
_RUNNING = (
    trials.c.study_id == p("study"),
    trials.c.finish_seq.is_(None),
    trials.c.state == sa.literal_column("'RUNNING'"),
)

# Locks the study's row where rows can be locked: the writers of one study go one after the other, and beside those who claim.
# `created` makes sure that it still is the same study: identities may be used again after a deletion.
_MADE = (studies.c.id == p("study"), studies.c.created == p("made"))
STUDY_HEAD = Statement(
    sa.select(
        studies.c.next_number,
        studies.c.finished,
        studies.c.completed,
        studies.c.infeasible,
        studies.c.failed,
        studies.c.front_version,
    )
    .where(*_MADE)
    .with_for_update(key_share=True),
    "study made",
)
STUDY_THERE = Statement(sa.select(studies.c.id).where(*_MADE), "study made")
LEASED = Statement(
    sa.select(trials.c.number, trials.c.worker, trials.c.lease_until).where(*_RUNNING, trials.c.lease_until > p("now")),
    "study now",
)
RENAME_STUDY = Statement(sa.update(studies).where(*_MADE).values(name=p("label")), "label study made")
SETTINGS = Statement(sa.select(studies.c.name, studies.c.settings).order_by(studies.c.name))
SETTINGS_OF = Statement(sa.select(studies.c.settings).where(studies.c.name == p("label")), "label")
# Waits for every writer of the study, and keeps out those who come.
LOCK_STUDY = Statement(sa.select(studies.c.id).where(studies.c.id == p("study")).with_for_update(), "study")
SET_STUDY_HEAD = Statement(
    sa.update(studies)
    .where(studies.c.id == p("study"))
    .values(
        next_number=p("a"), finished=p("b"), completed=p("c"), infeasible=p("d"), failed=p("e"), front_version=p("f")
    ),
    "a b c d e f study",
)
SET_STUDY_SPACE = Statement(
    sa.update(studies).where(studies.c.id == p("study")).values(space_id=p("space")), "space study"
)
ARCHS_OF_SPACE = Statement(
    sa.select(trials.c.number, trials.c.arch).where(trials.c.study_id == p("study"), trials.c.space_id == p("space")),
    "study space",
)
SET_ARCH = Statement(
    sa.update(trials)
    .where(trials.c.study_id == p("study"), trials.c.number == p("which"))
    .values(key=p("a"), space_id=p("b")),
    "a b study which",
)
SET_FRONT_SPACE = Statement(
    sa.update(front).where(front.c.study_id == p("study"), front.c.space_id == p("was")).values(space_id=p("a")),
    "a study was",
)

FIND_SPACE = Statement(
    sa.select(spaces.c.id).where(
        spaces.c.fingerprint == p("fingerprint"), spaces.c.name == p("label"), spaces.c.version == p("version")
    ),
    "fingerprint label version",
)
ADD_SPACE = Statement(
    sa.insert(spaces).values(fingerprint=p("a"), name=p("b"), version=p("c"), schema=p("d")), "a b c d"
)

STUDY_SPACE = Statement(
    sa.select(study_spaces.c.space_id).where(
        study_spaces.c.study_id == p("study"), study_spaces.c.space_id == p("space")
    ),
    "study space",
)
ADD_STUDY_SPACE = Statement(sa.insert(study_spaces).values(study_id=p("a"), space_id=p("b")), "a b")

FIND_STUDY = Statement(sa.select(studies.c.id, studies.c.created).where(studies.c.name == p("label")), "label")
# What a handle on a study is made of, and by which it shows that it is still good.
STUDY_COLUMNS = [studies.c[name] for name in ["id", "created", "objectives", "constraints", "settings", "space_id"]]
STUDY_MARK = Statement(sa.select(*STUDY_COLUMNS).where(studies.c.name == p("label")), "label")
STUDY_NAMES = Statement(sa.select(studies.c.name).order_by(studies.c.name))
ADD_STUDY = Statement(
    sa.insert(studies).values(
        name=p("a"),
        created=p("b"),
        space_id=p("c"),
        objectives=p("d"),
        constraints=p("e"),
        settings=p("f"),
        next_number=sa.literal_column("0"),
        finished=sa.literal_column("0"),
        completed=sa.literal_column("0"),
        infeasible=sa.literal_column("0"),
        failed=sa.literal_column("0"),
        front_version=sa.literal_column("0"),
    ),
    "a b c d e f",
)
# In this order; the last one takes no study: it deletes the spaces that no study has any more.
DELETE_STUDY = [
    (Statement(sa.delete(table).where(condition), "study"), True)
    for table, condition in (
        (measurements, measurements.c.metric_id.in_(sa.select(metrics.c.id).where(metrics.c.study_id == p("study")))),
        (metrics, metrics.c.study_id == p("study")),
        (front, front.c.study_id == p("study")),
        (notes, notes.c.study_id == p("study")),
        (trials, trials.c.study_id == p("study")),
        (study_spaces, study_spaces.c.study_id == p("study")),
        (studies, studies.c.id == p("study")),
    )
] + [(Statement(sa.delete(spaces).where(spaces.c.id.not_in(sa.select(study_spaces.c.space_id)))), False)]

TRIALS_BY_KEY = Among(
    lambda within: sa.select(trials.c.key, trials.c.number, trials.c.state, trials.c.created, trials.c.worker).where(
        trials.c.study_id == p("study"), within(trials.c.key)
    ),
    "study",
)
LEASES = Among(
    lambda within: sa.select(trials.c.number, trials.c.state, trials.c.worker, trials.c.attempt, trials.c.reason).where(
        trials.c.study_id == p("study"), within(trials.c.number)
    ),
    "study",
)
ADD_TRIALS = Insert(
    trials, "study_id number space_id key arch state worker attempt lease_until seed created started lost"
)
ADD_FINISHED = Insert(
    trials,
    "study_id number space_id key arch state seed created finished finish_seq duration_s violation reason attempt lost",
)
FINISH = Update(
    trials,
    "state finished finish_seq duration_s violation reason started study_id number",
    unless_none="started",
    clear="lease_until",
)
# A claim locks the trials that it takes and passes over those that others are taking: nobody waits.
# Of the pending states WAITING is the last by name.  The inequality keeps PostgreSQL on the index of pending trials: with an
# equality it expects the same order from the primary key and looks through all trials that finished before.
_WAITS = (
    trials.c.study_id == p("study"),
    trials.c.finish_seq.is_(None),
    trials.c.state >= sa.literal_column("'WAITING'"),
    studies.c.created == p("made"),
)
_CLAIMED = (trials.c.number, trials.c.attempt, trials.c.key, trials.c.arch, trials.c.seed, trials.c.space_id)


def _claiming(which: Sequence[sa.ColumnElement[bool]], order: str) -> Statement:
    found = (
        sa.select(trials.c.number)
        .join_from(trials, studies, studies.c.id == trials.c.study_id)
        .where(*which)
        .order_by(trials.c.state, trials.c.number)
        .limit(p("n"))
        .with_for_update(skip_locked=True, of=trials)
        .cte("next")
    )
    return Statement(
        sa.update(trials)
        .where(trials.c.study_id == p("study"), trials.c.number.in_(sa.select(found.c.number)))
        .values(
            state=sa.literal_column("'RUNNING'"),
            worker=p("a"),
            attempt=trials.c.attempt + sa.literal_column("1"),
            lease_until=p("b"),
            started=p("c"),
        )
        .returning(*_CLAIMED),
        order,
    )


CLAIM = _claiming(_WAITS, "a b c study made n")
CLAIM_UNSUSPECTED = _claiming([*_WAITS, trials.c.lost < p("below")], "a b c study made below n")
# What a claim took whose answer was lost.
CLAIMED = Statement(
    sa.select(*_CLAIMED).where(*_RUNNING, trials.c.worker == p("owner"), trials.c.started == p("since")),
    "study owner since",
)
EXTEND = Statement(
    sa.update(trials).where(*_RUNNING, trials.c.worker == p("owner")).values(lease_until=p("until")),
    "until study owner",
)
RELEASE = Statement(
    sa.update(trials)
    .where(*_RUNNING, trials.c.worker == p("owner"))
    .values(state=sa.literal_column("'WAITING'"), worker=sa.null(), lease_until=sa.null(), started=sa.null()),
    "study owner",
)
RUNNING = Statement(
    sa.select(trials.c.number, trials.c.worker, trials.c.lease_until, trials.c.lost).where(*_RUNNING), "study"
)
REQUEUE = Statement(
    sa.update(trials)
    .where(*_TRIAL)
    .values(
        state=sa.literal_column("'WAITING'"),
        worker=sa.null(),
        lease_until=sa.null(),
        started=sa.null(),
        lost=p("lost_now"),
    ),
    "lost_now study no",
)

# What a trial that is tried again was: see `Wave.retry`.
TRIED = Among(
    lambda within: sa.select(
        trials.c.number,
        trials.c.state,
        trials.c.finish_seq,
        trials.c.worker,
        trials.c.attempt,
        trials.c.started,
        trials.c.finished,
        trials.c.duration_s,
        trials.c.reason,
    ).where(trials.c.study_id == p("study"), within(trials.c.number)),
    "study",
)
RETRY = Statement(
    sa.update(trials)
    .where(*_TRIAL)
    .values(
        state=sa.literal_column("'WAITING'"),
        lost=sa.literal_column("0"),
        **dict.fromkeys(
            ("worker", "lease_until", "started", "finished", "finish_seq", "duration_s", "violation", "reason"),
            sa.null(),
        ),
    ),
    "study no",
)
CLOSE_GAP = Statement(
    sa.update(trials)
    .where(trials.c.study_id == p("study"), trials.c.finish_seq > p("low"), trials.c.finish_seq < p("high"))
    .values(finish_seq=trials.c.finish_seq - p("gone", type_=sa.Integer)),
    "gone study low high",
)
FORGET_FINALS = Statement(
    sa.delete(measurements).where(
        measurements.c.metric_id.in_(sa.select(metrics.c.id).where(metrics.c.study_id == p("study"))),
        measurements.c.step == sa.literal_column(str(FINAL)),
        measurements.c.number == p("no"),
    ),
    "study no",
)

PROGRESSED = Statement(sa.update(trials).where(*_TRIAL).values(lost=sa.literal_column("0")), "study no")

METRICS = Statement(sa.select(metrics.c.name, metrics.c.id).where(metrics.c.study_id == p("study")), "study")
ADD_METRIC = Statement(sa.insert(metrics).values(study_id=p("a"), name=p("b"), unit=p("c")), "a b c")
ADD_MEASUREMENTS = Insert(measurements, "metric_id step number value")
SET_MEASUREMENT = Statement(
    sa.update(measurements)
    .where(measurements.c.metric_id == p("m"), measurements.c.step == p("s"), measurements.c.number == p("n"))
    .values(value=p("v")),
    "v m s n",
)
FINALS_OF_TRIAL = Statement(
    sa.select(metrics.c.name, measurements.c.value)
    .join_from(metrics, measurements, measurements.c.metric_id == metrics.c.id)
    .where(metrics.c.study_id == p("study"), measurements.c.step == sa.literal_column(str(FINAL)))
    .where(measurements.c.number == p("number")),
    "study number",
)

FRONT = Statement(
    sa.select(front.c.number, front.c.space_id, front.c.arch, front.c.finals)
    .where(front.c.study_id == p("study"))
    .order_by(front.c.number),
    "study",
)


def _strays(column: sa.Column[int], parent: sa.Table) -> Statement:
    """Of the first and the last value of an indexed reference, how many refer to nothing.

    Wrong types, and numbers that were never given, sort to the ends: rows that nobody would read or miss are found by a look.
    """
    ends = sa.union(*(sa.select(end(column).label("x")) for end in (sa.func.min, sa.func.max))).subquery()
    return Statement(sa.select(sa.func.count()).where(ends.c.x.is_not(None), ends.c.x.not_in(sa.select(parent.c.id))))


STRAY_METRICS = _strays(metrics.c.study_id, studies)
STRAY_MEASUREMENTS = _strays(measurements.c.metric_id, metrics)
STRAY_FRONT = _strays(front.c.study_id, studies)
STRAY_NOTES = _strays(notes.c.study_id, studies)
# Notes on trials that the study does not have.
NOTES_BEYOND = Statement(
    sa.select(sa.func.count())
    .select_from(notes)
    .join(studies, studies.c.id == notes.c.study_id)
    .where(notes.c.study_id == p("study"), sa.or_(notes.c.number < -1, notes.c.number >= studies.c.next_number)),
    "study",
)
STRAY_LATENCIES = _strays(device_measurements.c.device_id, devices)

# How many rows of the front repeat what their trial has: all of them, where nothing is damaged.
FRONT_AGREEING = Statement(
    sa.select(sa.func.count())
    .select_from(front)
    .join(trials, sa.and_(trials.c.study_id == front.c.study_id, trials.c.number == front.c.number))
    .where(
        front.c.study_id == p("study"),
        trials.c.arch == front.c.arch,
        trials.c.space_id == front.c.space_id,
        trials.c.state == sa.literal_column("'COMPLETED'"),
    ),
    "study",
)
FRONT_FINALS = Statement(
    sa.select(front.c.number, front.c.finals).where(front.c.study_id == p("study")).order_by(front.c.number), "study"
)
ENTER_FRONT = Statement(
    sa.insert(front).from_select(
        ["study_id", "number", "space_id", "arch", "finals"],
        sa.select(
            trials.c.study_id, trials.c.number, trials.c.space_id, trials.c.arch, p("finals", type_=sa.Text)
        ).where(*_TRIAL),
    ),
    "finals study no",
)
LEAVE_FRONT = Statement(
    sa.delete(front).where(front.c.study_id == p("study"), front.c.number == p("number")), "study number"
)
