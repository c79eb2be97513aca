"""Whether everything that a step computes has a kernel for GPUs, found out without one: docs/gpu_audit.md.

An operation without such a kernel is no error to TensorFlow. It runs on the host, with a copy there and one back, and a
GPU that waits.
"""
