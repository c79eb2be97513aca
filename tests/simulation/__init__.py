"""Whole studies against a simulated world: `python -m tests.simulation --seeds 0:1000`.

The driver's loop, ledger, transitions, lease, pool and reconcile are the product's own. The world around them (jobs and
their nodes, the batch system, the shared file system, the database, other drivers and the person who types the command)
is simulated in one process with a clock of its own: it is slow, dies, comes back, answers late, twice, stale or never,
loses and tears writes. A seed gives the same run every time.
"""
