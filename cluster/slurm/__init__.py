"""All that knows Slurm: its commands and their words, its job script through dask-jobqueue, its job steps."""
