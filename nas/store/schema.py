"""Tables of the results database, in terms that SQLite and PostgreSQL share.

A trial is `(study_id, number)`: numbers count 0, 1, 2… within a study, so that measurements of one metric are a column
indexed by trial number, and no identity has to be read back after an insert.  Structured values are compact JSON *text*;
times are seconds since the epoch.  The migrations create the tables; a test asserts that the two agree.
"""

from __future__ import annotations

from typing import Literal

import sqlalchemy as sa

#: Every revision of the schema, oldest first; the last one is what this code reads and writes.
REVISIONS = ("0001", "0002", "0003", "0004")
HEAD = REVISIONS[-1]

#: `measurements.step` of a final value.  Intermediate values have the steps 0, 1, 2….
FINAL = -1

#: Columns of a trial that tables show and filters name, and whether they hold numbers or text.
TRIAL_COLUMNS: dict[str, Literal["number", "text"]] = {
    "number": "number",
    "state": "text",
    "worker": "text",
    "attempt": "number",
    "duration_s": "number",
    "violation": "number",
    "reason": "text",
}

metadata = sa.MetaData()

# A space's schema gives names and labels to the numbers in `trials.arch`.  Never changed: a changed space is another row.
spaces = sa.Table(
    "spaces",
    metadata,
    sa.Column("id", sa.Integer, primary_key=True),
    sa.Column("fingerprint", sa.Text, nullable=False),
    sa.Column("name", sa.Text, nullable=False),
    sa.Column("version", sa.Integer, nullable=False),
    sa.Column("schema", sa.Text, nullable=False),
    sa.UniqueConstraint("fingerprint", "name", "version", name="uq_spaces_fingerprint"),
)

# The counters are written by the transactions that finish or add trials; whoever locks this row may write the study.
studies = sa.Table(
    "studies",
    metadata,
    sa.Column("id", sa.Integer, primary_key=True),
    sa.Column("name", sa.Text, nullable=False),
    sa.Column("created", sa.Double, nullable=False),
    sa.Column("space_id", sa.Integer, sa.ForeignKey("spaces.id"), nullable=False),
    sa.Column("objectives", sa.Text, nullable=False),
    sa.Column("constraints", sa.Text, nullable=False),
    sa.Column("settings", sa.Text, nullable=False),
    sa.Column("next_number", sa.Integer, nullable=False),
    sa.Column("finished", sa.Integer, nullable=False),  # trials finished so far = the last finish_seq
    sa.Column("completed", sa.Integer, nullable=False),
    sa.Column("infeasible", sa.Integer, nullable=False),
    sa.Column("failed", sa.Integer, nullable=False),
    sa.Column("front_version", sa.Integer, nullable=False),  # grows with every change of the front
    sa.UniqueConstraint("name", name="uq_studies_name"),
)

# Every space that trials of a study may come from.
study_spaces = sa.Table(
    "study_spaces",
    metadata,
    sa.Column("study_id", sa.Integer, sa.ForeignKey("studies.id"), nullable=False),
    sa.Column("space_id", sa.Integer, sa.ForeignKey("spaces.id"), nullable=False),
    sa.PrimaryKeyConstraint("study_id", "space_id", name="pk_study_spaces"),
)

trials = sa.Table(
    "trials",
    metadata,
    sa.Column("study_id", sa.Integer, sa.ForeignKey("studies.id"), nullable=False),
    sa.Column("number", sa.Integer, nullable=False),
    sa.Column("space_id", sa.Integer, sa.ForeignKey("spaces.id"), nullable=False),
    sa.Column("key", sa.Text, nullable=False),
    sa.Column("arch", sa.Text, nullable=False),
    sa.Column("state", sa.Text, nullable=False),
    sa.Column("worker", sa.Text),
    sa.Column("attempt", sa.Integer, nullable=False),  # claims so far: with `worker` it fences late reports
    sa.Column("lost", sa.Integer, nullable=False),  # workers that vanished while they held it
    sa.Column("lease_until", sa.Double),
    sa.Column("seed", sa.BigInteger),
    sa.Column("created", sa.Double, nullable=False),
    sa.Column("started", sa.Double),
    sa.Column("finished", sa.Double),
    sa.Column(
        "finish_seq", sa.Integer
    ),  # 1, 2, 3… in the order in which the study's trials finished; NULL while pending
    sa.Column("duration_s", sa.Double),
    sa.Column("violation", sa.Double),
    sa.Column("reason", sa.Text),
    sa.PrimaryKeyConstraint("study_id", "number", name="pk_trials"),
    sa.UniqueConstraint("study_id", "key", name="uq_trials_key"),
)

# Finished trials in finish order with their state: history and fronts never touch the wide rows.
_finished = trials.c.finish_seq.is_not(None)
sa.Index(
    "ix_trials_finished",
    trials.c.study_id,
    trials.c.finish_seq,
    trials.c.state,
    trials.c.number,
    unique=True,
    sqlite_where=_finished,
    postgresql_where=_finished,
)

# The few that wait or run, whatever the number of finished ones.
_pending = trials.c.finish_seq.is_(None)
sa.Index(
    "ix_trials_pending",
    trials.c.study_id,
    trials.c.state,
    trials.c.number,
    sqlite_where=_pending,
    postgresql_where=_pending,
)

metrics = sa.Table(
    "metrics",
    metadata,
    sa.Column("id", sa.Integer, primary_key=True),
    sa.Column("study_id", sa.Integer, sa.ForeignKey("studies.id"), nullable=False),
    sa.Column("name", sa.Text, nullable=False),
    sa.Column("unit", sa.Text, nullable=False),
    sa.UniqueConstraint("study_id", "name", name="uq_metrics_name"),
)

# Clustered by (metric, step): the final values of a metric, or everybody's values at a step, are one range scan.
measurements = sa.Table(
    "measurements",
    metadata,
    sa.Column("metric_id", sa.Integer, sa.ForeignKey("metrics.id"), nullable=False),
    sa.Column("step", sa.Integer, nullable=False),
    sa.Column("number", sa.Integer, nullable=False),
    sa.Column("value", sa.Double, nullable=False),
    sa.PrimaryKeyConstraint("metric_id", "step", "number", name="pk_measurements"),
    sqlite_with_rowid=False,
)

# The Pareto front of the study's objectives over its COMPLETED trials, kept by the transactions that report.  It repeats what
# a table of it shows, which never changes any more: a scan of hundreds of rows, where a search of trials and measurements
# for each would be thousands.
front = sa.Table(
    "front",
    metadata,
    sa.Column("study_id", sa.Integer, sa.ForeignKey("studies.id"), nullable=False),
    sa.Column("number", sa.Integer, nullable=False),
    sa.Column("space_id", sa.Integer, sa.ForeignKey("spaces.id"), nullable=False),
    sa.Column("arch", sa.Text, nullable=False),
    sa.Column("finals", sa.Text, nullable=False),  # final value by metric name, JSON
    sa.PrimaryKeyConstraint("study_id", "number", name="pk_front"),
    sqlite_with_rowid=False,
)

# What latencies were measured on.  `description` says all that a figure depends on: processor, threads, batch, precision.
devices = sa.Table(
    "devices",
    metadata,
    sa.Column("id", sa.Integer, primary_key=True),
    sa.Column("name", sa.Text, nullable=False),
    sa.Column("description", sa.Text, nullable=False),
    sa.Column("created", sa.Double, nullable=False),
    sa.UniqueConstraint("name", name="uq_devices_name"),
)

# One row a measurement of an arch on a device; the newest of an arch counts.  They outlive the studies, and are found by the
# fingerprint of the space: figures of another space are never mixed in.
device_measurements = sa.Table(
    "device_measurements",
    metadata,
    sa.Column("id", sa.Integer, primary_key=True),
    sa.Column("device_id", sa.Integer, sa.ForeignKey("devices.id"), nullable=False),
    sa.Column("fingerprint", sa.Text, nullable=False),
    sa.Column("key", sa.Text, nullable=False),
    sa.Column("arch", sa.Text, nullable=False),
    sa.Column("median_ms", sa.Double, nullable=False),
    sa.Column("noisy", sa.Integer, nullable=False),  # 0 or 1
    sa.Column("details", sa.Text, nullable=False),  # p10, spread, load, runs, reference, energy, memory: what there is
    sa.Column("environment", sa.Text, nullable=False),
    sa.Column("created", sa.Double, nullable=False),
)
sa.Index(
    "ix_device_measurements",
    device_measurements.c.device_id,
    device_measurements.c.fingerprint,
    device_measurements.c.key,
)

# A fitted predictor of a device for a space; a newer fit replaces the older one.  `arrays` is an .npz without objects.
predictors = sa.Table(
    "predictors",
    metadata,
    sa.Column("id", sa.Integer, primary_key=True),
    sa.Column("device_id", sa.Integer, sa.ForeignKey("devices.id"), nullable=False),
    sa.Column("fingerprint", sa.Text, nullable=False),
    sa.Column("space", sa.Text, nullable=False),
    sa.Column("kind", sa.Text, nullable=False),
    sa.Column("errors", sa.Text, nullable=False),
    sa.Column("state", sa.Text, nullable=False),
    sa.Column("arrays", sa.LargeBinary, nullable=False),
    sa.Column("created", sa.Double, nullable=False),
    sa.UniqueConstraint("device_id", "fingerprint", name="uq_predictors_device"),
)

# Small JSON values by name, on a trial, or on the study itself (number -1): see notes.py.
notes = sa.Table(
    "notes",
    metadata,
    sa.Column("study_id", sa.Integer, sa.ForeignKey("studies.id"), nullable=False),
    sa.Column("number", sa.Integer, nullable=False),
    sa.Column("name", sa.Text, nullable=False),
    sa.Column("value", sa.Text, nullable=False),
    sa.PrimaryKeyConstraint("study_id", "number", "name", name="pk_notes"),
    sqlite_with_rowid=False,
)
