"""The energy of a trial: one process a node reads counters by perun, and the ranks add up what it says."""
