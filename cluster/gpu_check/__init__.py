"""Measures what a site does with a trial's step: one short job, or ranks on this machine, started again as needed."""
