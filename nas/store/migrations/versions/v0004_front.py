"""Fronts carry what a table of them shows: archs and final values."""

from __future__ import annotations

import json

import sqlalchemy as sa
from alembic import op

revision = "0004"
down_revision = "0003"
branch_labels = None
depends_on = None

_ARCHS = """
SELECT front.study_id, front.number, trials.space_id, trials.arch FROM front
JOIN trials ON trials.study_id = front.study_id AND trials.number = front.number
"""
_FINALS = """
SELECT measurements.value, metrics.name FROM metrics
JOIN measurements ON measurements.metric_id = metrics.id AND measurements.step = -1
WHERE metrics.study_id = :study AND measurements.number = :number ORDER BY metrics.id
"""


def upgrade() -> None:
    """Make the table anew, with the rows that it has; they are some hundreds a study."""
    bind = op.get_bind()
    rows = bind.execute(sa.text(_ARCHS)).all()
    finals = sa.text(_FINALS)
    kept = []
    for study, number, space, arch in rows:
        found = bind.execute(finals, {"study": study, "number": number})
        values = json.dumps({name: value for value, name in found}, separators=(",", ":"))
        kept.append({"study_id": study, "number": number, "space_id": space, "arch": arch, "finals": values})
    op.drop_table("front")
    front = op.create_table(
        "front",
        sa.Column("study_id", sa.Integer(), nullable=False),
        sa.Column("number", sa.Integer(), nullable=False),
        sa.Column("space_id", sa.Integer(), nullable=False),
        sa.Column("arch", sa.Text(), nullable=False),
        sa.Column("finals", sa.Text(), nullable=False),
        sa.ForeignKeyConstraint(["study_id"], ["studies.id"]),
        sa.ForeignKeyConstraint(["space_id"], ["spaces.id"]),
        sa.PrimaryKeyConstraint("study_id", "number", name="pk_front"),
        sqlite_with_rowid=False,
    )
    op.bulk_insert(front, kept)
