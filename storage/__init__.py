"""What outlives a process: the records on disk, the trial directory, the study's database and its lease."""
