"""Benchmarks, `make bench`. Ratios of what ran side by side in one run; a bare time says nothing about a machine."""
