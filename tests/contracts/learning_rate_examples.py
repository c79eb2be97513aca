"""Examples of each learning-rate schedule: what tests/contracts/test_learning_rates.py builds it with, for 30 epochs.

A new schedule trainers/learning_rates/NAME.py adds an entry NAME with the options of `build`, one dictionary each.
"""

from __future__ import annotations

from typing import Any

EXAMPLES: dict[str, list[dict[str, Any]]] = {
    "constant": [{}, {"warmup_epochs": 2.5}],
    "cosine": [{}, {"warmup_epochs": 5, "final_share": 0.01}],
    "steps": [{"at_epochs": [10, 20]}, {"at_epochs": [15], "factor": 0.5, "warmup_epochs": 1}],
}
