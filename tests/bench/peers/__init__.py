"""Other tools for the same trials, `make bench-peers`: Optuna and Ray Tune, each with a subprocess per trial."""
