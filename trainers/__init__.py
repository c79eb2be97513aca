"""The ranks: `python -m trainers` trains one trial under Horovod. Nobody imports this package."""
