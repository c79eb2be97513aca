"""What Slurm's commands say, found among other output."""

from __future__ import annotations

import re

_SAID = re.compile(r"^(?:sbatch|srun|squeue|scancel|sinfo|slurmstepd): (?:error: |fatal: )?(.*)$", re.MULTILINE)

# Of the controller, of limits that end with other jobs, and of the network between.
_TRANSIENT = re.compile(
    r"socket timed out|unable to contact slurm controller|slurm_load_|connection (?:refused|reset|timed out)"
    r"|temporarily unable|resource temporarily unavailable|backup controller|zero bytes were transmitted"
    r"|message (?:receive|send) failure|communication connection failure|i/o error"
    r"|(?:max|limit)\w* ?(?:submit|jobs?)|submit(?:ted)? job (?:limit|count)|job submit limit|violates accounting/qos"
    r"|qosmax|assocmax|too many (?:jobs|pending)",
    re.IGNORECASE,
)


def slurm_lines(text: str) -> str:
    """What Slurm's commands said in the midst of other output, each thing once; empty if they said nothing."""
    return "; ".join(dict.fromkeys(_SAID.findall(text)))


def own_words(text: str) -> str:
    """What Slurm said, out of all that was printed with it; all of it if none is Slurm's."""
    return slurm_lines(text) or " ".join(text.split())


def is_transient_refusal(words: str) -> bool:
    """Whether sbatch may accept tomorrow what it refuses today: a controller that is away, a limit that is reached."""
    return _TRANSIENT.search(words) is not None
