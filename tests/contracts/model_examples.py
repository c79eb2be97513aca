"""Options of each model with which its layers are as narrow as they get, for tests/contracts/test_models.py.

A new model trainers/models/NAME.py adds an entry NAME; no options, if none of them changes a layer's channels.
"""

from __future__ import annotations

from typing import Any

NARROWEST: dict[str, dict[str, Any]] = {
    "efficientnet_b0": {},
    "small_resnet": {"width": 1, "blocks": [1, 1, 1]},
}
