"""Where trials run: sites, launchers, Dask, and the runner of one attempt."""
