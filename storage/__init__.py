"""What outlives a process: the files that driver, runner and ranks share, and the study's database."""
