"""Durable studies and trials; needs neither torch nor pyglove, so results can be read anywhere.

- `open_store(path)` gives a `Store`: `create_study`, `open_study`, `rename_study`, `delete_study`, `names`, `studies`, `current`,
  `upgrade`.
- `StudyRecord` writes (`add`, `claim`, `heartbeat`, `report`, `wave`, `measure`, `release`,
  `requeue_expired`, `import_trials`, `update_space`, `enter`, `annotate`) and reads (`history`, `front`, `trials`, `trial`,
  `lookup`, `keys`, `counts`, `curve`, `notes`).
- `Store.hardware` is a `HardwareRecord`: devices (`StoredDevice`), latencies of archs on them (`ArchMeasurement`), fitted
  predictors (`StoredPredictor`).
- Records: `NewTrial`, `Added`, `Claim`, `Report`, `Receipt`, `ImportedTrial`, `History`, `Pending`, `TrialRecord`,
  `StudySummary`.
"""

from nas.store.hardware import ArchMeasurement, HardwareRecord, StoredDevice, StoredPredictor
from nas.store.records import (
    FINISHED,
    STATES,
    Added,
    Claim,
    History,
    ImportedTrial,
    NewTrial,
    Pending,
    Receipt,
    Report,
    State,
    StudySummary,
    TrialRecord,
)
from nas.store.store import Store, open_store
from nas.store.study import StudyRecord

__all__ = [
    "FINISHED",
    "STATES",
    "Added",
    "ArchMeasurement",
    "Claim",
    "HardwareRecord",
    "History",
    "ImportedTrial",
    "NewTrial",
    "Pending",
    "Receipt",
    "Report",
    "State",
    "Store",
    "StoredDevice",
    "StoredPredictor",
    "StudyRecord",
    "StudySummary",
    "TrialRecord",
    "open_store",
]
