"""Environment variables that one process of this system sets and another one reads."""

from __future__ import annotations

REQUIRED_BACKEND = "SWITCHYARD_REQUIRED_BACKEND"
"""What must move the gradients at the least: nccl, mpi or gloo. Set by the runner, read by the ranks."""

WATCHDOG_LIMIT_S = "SWITCHYARD_WATCHDOG_LIMIT_S"
"""Seconds without progress after which a rank ends itself. Set by a site, read by the ranks."""

REQUIRES_ENERGY = "SWITCHYARD_REQUIRES_ENERGY"
"""Present where a study goes by its trials' energy: ranks that cannot measure it do not train. Set by the driver."""

TRIALS_ON_MACHINE = "SWITCHYARD_TRIALS_ON_MACHINE"
"""How many trials run on one machine at once. Set by the driver where they are more than one, read by the ranks."""

POWERCAP_DIR = "SWITCHYARD_POWERCAP_DIR"
"""Where the kernel shows its energy counters, if not in /sys/class/powercap: containers see those of their host
elsewhere. Set by a site, read by the ranks."""

STORAGE_URL = "SWITCHYARD_STORAGE"
"""Database URL without password. Set by a person, read by the driver."""

STORAGE_PASSWORD = "SWITCHYARD_STORAGE_PASSWORD"
"""Set by a person, read and removed by the driver."""

NOTIFY_URLS = "SWITCHYARD_NOTIFY_URLS"
"""Services that are told how a study ended: URLs of apprise, which hold credentials, with spaces between them. Set by a
person, read and removed by the driver."""
