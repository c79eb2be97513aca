"""A study that trains in seconds: 64 patches of 16 x 16 pixels, a network of 2,000 weights."""

from __future__ import annotations

from pathlib import Path

from tests.ranks_form import RANKS_STAY

CONFIG = """
[study]
name = "small"
trials = 3
seed = 7

[training]
epochs = 2
loader_batch_size = 32

[model]
name = "small_resnet"
width = 4
blocks = [1]

[dataset]
name = "synthetic_bigearthnet"
train = 64
val = 32
test = 0
size = 16

[optimizer]
name = "sgd"

[batch_policy]
name = "switch_at_epoch"
small_global_batch_size = 16
large_global_batch_size = 32
switch_epoch = 1

[search_space.optimizer]
learning_rate = { type = "float", low = 1e-3, high = 1.0, log = true }
"""


def write_config(folder: Path) -> Path:
    path = folder / "small.toml"
    path.write_text(CONFIG)
    return path


def write_site(folder: Path, ranks: int = 1, grace_s: int = 20) -> Path:
    """A site of one trial at a time; `ranks` of it."""
    path = folder / "here.toml"
    path.write_text(
        f'launcher = "mpirun"\nranks_per_node = {ranks}\nmax_concurrent_trials = 1\ncheckpoint_grace_s = {grace_s}\n'
        f"resident_ranks = {str(RANKS_STAY).lower()}\n"
    )
    return path
