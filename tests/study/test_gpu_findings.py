"""What is made of measurements: those that a site with sixteen GPUs could have given, with one of them changed."""

from __future__ import annotations

from dataclasses import replace

import pytest

from cluster.doctor.facts import JobFacts
from storage.protocol.gpu_check import (
    AllreduceFacts,
    CheckFacts,
    CheckRequest,
    InputFacts,
    LauncherFacts,
    PhaseFacts,
    ProgramFacts,
    RanksFacts,
    StepProgram,
)
from storage.protocol.records import CommunicatorReport, Precision
from study.forecast.performance_model import Placement
from study.gpu_findings import Check, Row, Status, judge, reasons
from study.gpu_plan import step_programs

PROGRAMS, _ = step_programs(StepProgram(Precision.TF32, jit=True, fused=True), has_gpus=True)
REPORT = CommunicatorReport(
    world_size=16,
    hosts=[f"node{rank // 4}" for rank in range(16)],
    data_plane="nccl",
    nccl_built=True,
    mpi_built=True,
    gloo_built=False,
    mpi_enabled=True,
    gloo_enabled=False,
    gpus=[f"NVIDIA A100-SXM4-40GB GPU-{rank}" for rank in range(16)],
    threads_per_rank=32,
    versions={},
)
SMALL = PhaseFacts(32, update_s=(0.02, 0.02, 0.021), first_update_s=0.02, peak_bytes=2 * 2**30)
LARGE = PhaseFacts(1024, update_s=(0.4, 0.4, 0.41), first_update_s=0.4, peak_bytes=20 * 2**30)
PROGRAM = ProgramFacts(build_s=5.0, warm_up_s=30.0, phases=(SMALL, LARGE), evaluation_s=4.0)
GOOD = Check(
    request=CheckRequest(PROGRAMS, (32, 1024), reads_input=True, limit_s=600.0, measurement_limit_s=240.0),
    placement=Placement(16, 4),
    has_gpus=True,
    is_job=True,
    # 64 MiB in 5 ms: a node sends 15/8 times as much, 201 Gbit/s.
    link_gbit_per_s=400.0,
    has_node_cache=False,
    skipped={},
    job=JobFacts(waited_s=12.0),
    facts=CheckFacts(
        ranks=RanksFacts(REPORT, refusal=""),
        allreduce=AllreduceFacts(213, 16_000_000, 0.002, 64 * 2**20, 0.005),
        programs={program.name: PROGRAM for program in PROGRAMS},
        input=InputFacts(samples=400_000, samples_per_s=50_000.0),
        failures={},
        launcher=LauncherFacts(rendezvous_s=20.0, words=""),
    ),
    cost=None,
)


def with_facts(**values: object) -> Check:
    return replace(GOOD, facts=replace(GOOD.facts, **values))


def without(name: str, reason: str | None) -> Check:
    programs = {key: facts for key, facts in GOOD.facts.programs.items() if key != name}
    return with_facts(programs=programs, failures={} if reason is None else {name: reason})


def row(check: Check, name: str) -> Row:
    return next(row for row in judge(check) if row.name == name)


def test_a_site_that_does_what_it_promises_passes_with_a_row_for_each_form_of_the_step():
    rows = judge(GOOD)

    assert reasons(rows) == []
    assert sum(row.name.startswith("step ") and row.status is Status.PASS for row in rows) == 12
    assert row(GOOD, "step tf32-xla").found == (
        "32 a rank: 20 ms, 1,600 images/s a GPU, 2 GiB; 1,024 a rank: 400 ms, 2,560 images/s a GPU, 20 GiB"
    )
    assert row(GOOD, "images/s a GPU").found == "1,600 at 32 and 2,560 at 1,024: 1.6 times"
    assert row(GOOD, "link").found == "a node sent 201 Gbit/s, 50% of the link's 400"


@pytest.mark.parametrize(
    ("check", "name", "words"),
    [
        (replace(GOOD, link_gbit_per_s=800.0), "link", "25% of the link's 800, below 50%"),
        (with_facts(ranks=RanksFacts(REPORT, "mpi would move the gradients")), "data plane", "mpi would move"),
        (with_facts(ranks=RanksFacts(replace(REPORT, world_size=12), "")), "ranks", "12 of 16"),
        (with_facts(ranks=None, launcher=LauncherFacts(None, "srun: no PMIx")), "launcher", "no PMIx"),
        (without("tf32-xla", "ResourceExhaustedError: OOM"), "step tf32-xla", "OOM"),
        (without("tf32-xla", None), "step tf32-xla", "time ran out"),
        (replace(GOOD, job=JobFacts(refused="Invalid account")), "job", "Invalid account"),
        (replace(GOOD, job=JobFacts(state="PENDING Resources", has_left_queue=False)), "job", "PENDING Resources"),
    ],
)
def test_what_keeps_a_study_from_starting_fails_with_its_reason(check, name, words):
    (reason,) = [reason for reason in reasons(judge(check)) if reason.startswith(f"{name}: ")]

    assert words in reason


@pytest.mark.parametrize(
    ("check", "name", "status", "words"),
    [
        (without("float32", "XLA"), "step float32", Status.WARNING, "XLA"),
        (without("float32", None), "step float32", Status.SKIPPED, "time ran out"),
        (with_facts(input=InputFacts(9, 30_000.0)), "input", Status.WARNING, "training could take 41,000"),
        (
            replace(with_facts(input=InputFacts(9, 30_000.0)), has_node_cache=True),
            "input",
            Status.PASS,
            "later ones from node_cache",
        ),
        (replace(GOOD, link_gbit_per_s=None), "link", Status.SKIPPED, "no link rate in the profile"),
        (replace(GOOD, placement=Placement(16, 1)), "link", Status.SKIPPED, "one node"),
        (replace(GOOD, skipped={"tf32": "no GPU", "tf32-xla": "no GPU"}), "step tf32, tf32-xla", Status.SKIPPED, "no"),
    ],
)
def test_what_a_study_can_live_with_is_said_and_passes(check, name, status, words):
    found = row(check, name)

    assert (found.status, reasons(judge(check))) == (status, [])
    assert words in found.found


def test_a_first_update_after_the_switch_that_takes_longer_is_said():
    slow = replace(PROGRAM, phases=(SMALL, replace(LARGE, first_update_s=4.0)))

    found = row(with_facts(programs={**GOOD.facts.programs, "tf32-xla": slow}), "switch")

    assert found.status is Status.WARNING
    assert "10 times as long" in found.found


def test_on_cpus_neither_memory_nor_gpus_are_judged_and_forms_for_gpus_are_not_measured():
    programs, skipped = step_programs(StepProgram(Precision.FLOAT32, jit=False, fused=True), has_gpus=False)
    on_host = replace(PROGRAM, phases=tuple(replace(phase, peak_bytes=None) for phase in PROGRAM.phases))
    check = replace(
        with_facts(programs={program.name: on_host for program in programs}),
        request=replace(GOOD.request, programs=programs),
        has_gpus=False,
        skipped=skipped,
    )

    assert [program.name for program in programs] == ["float32", "float32-xla", "float32-keras", "float32-xla-keras"]
    assert {row(check, name).status for name in ("GPUs", "peak memory")} == {Status.SKIPPED}
    assert reasons(judge(check)) == []
