"""Tests that make networks, mount file systems or become other users; CI runs as root."""

from __future__ import annotations

import os

import pytest

needs_root = pytest.mark.skipif(os.geteuid() != 0, reason="only root makes networks and becomes other users")
