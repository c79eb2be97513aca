"""The driver: Optuna decides what to try, Dask takes it to where it trains, the database keeps what came out."""
