"""What a site must have. A check is a row here and one pure function, from profile and facts to verdicts."""

from __future__ import annotations

from cluster.doctor.checks import energy, files, gpus, job, machine, network, queue, ranks
from cluster.doctor.findings import Check

CHECKS = (
    Check("profile", machine.judge_profile, stops_job=True),
    Check("Python", machine.judge_login_python),
    Check("compilers", machine.judge_compilers),
    Check("GPU software", gpus.judge_software),
    Check("runs folder", files.judge_login_folder, stops_job=True),
    Check("cores", machine.judge_cores),
    Check("private network", network.judge_private_network),
    Check("driver's interface", network.judge_driver_interface),
    Check("batch system", queue.judge_answer, stops_job=True),
    Check("partition", queue.judge_partition, after=("batch system",), stops_job=True),
    Check("account", queue.judge_account, after=("profile", "partition"), stops_job=True),
    Check("walltime", queue.judge_walltime, after=("partition",)),
    Check("nodes", queue.judge_nodes, after=("partition",), stops_job=True),
    Check("MPI plugin", queue.judge_mpi_plugin, after=("batch system",)),
    # What is known to be wrong explains a refusal, and a job that is not started.
    Check(
        "submission",
        queue.judge_submission,
        after=("profile", "partition", "account", "walltime", "nodes"),
        stops_job=True,
    ),
    Check("job", job.judge_start, after=("runs folder", "partition", "account", "nodes")),
    Check("shared folder", job.judge_shared_folder, after=("job",)),
    Check("prologue", job.judge_prologue, after=("shared folder",)),
    Check("Python on nodes", machine.judge_node_python, after=("prologue",)),
    Check("file system", files.judge_node_folder, after=("Python on nodes",)),
    Check("interface", network.judge_node_interface, after=("Python on nodes",)),
    Check("driver's port", network.judge_link, after=("Python on nodes", "driver's interface", "interface")),
    Check("clock", network.judge_clock, after=("driver's port",)),
    Check("ranks", ranks.judge_ranks, after=("Python on nodes", "MPI plugin")),
    Check("MPI library", ranks.judge_library, after=("ranks",)),
    Check("GPUs", gpus.judge_gpus, after=("Python on nodes",)),
    Check("GPU driver", gpus.judge_driver, after=("GPU software", "GPUs")),
    Check("GPUs of ranks", gpus.judge_visible_gpus, after=("GPUs", "ranks")),
    Check("energy", energy.judge_counters, after=("Python on nodes",)),
)
