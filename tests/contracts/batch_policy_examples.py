"""Examples of each batch policy: what tests/contracts/test_batch_policies.py builds it with.

A new batch policy trainers/batch_policies/NAME.py adds an entry NAME with the options of `build`, one dictionary each.
"""

from __future__ import annotations

from typing import Any

EXAMPLES: dict[str, list[dict[str, Any]]] = {
    "constant": [{"global_batch_size": 512}],
    "switch_at_epoch": [
        {"small_global_batch_size": 512, "large_global_batch_size": 16_384, "switch_epoch": 20},
        {"small_global_batch_size": 8, "large_global_batch_size": 64, "switch_epoch": 0},
        {"small_global_batch_size": 8, "large_global_batch_size": 8, "switch_epoch": 3},
    ],
}
