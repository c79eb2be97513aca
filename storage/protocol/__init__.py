"""The wire contract between driver, runner and ranks. Standard library only: every process imports it."""
