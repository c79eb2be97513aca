"""Kill a real study's processes at random: `python -m tests.chaos --kills 50 --seed 1`.

With `--set 'pruner={name="asha",promotes=true}'` trials are held, promoted and pruned meanwhile.
"""

from __future__ import annotations

import argparse
import sys
import tempfile
from pathlib import Path

from tests.chaos.study_under_fire import StudyUnderFire, place


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m tests.chaos", description=__doc__)
    parser.add_argument("--kills", type=int, default=50, metavar="N")
    parser.add_argument("--seed", type=int, default=1, metavar="S", help="of what is killed and when")
    parser.add_argument("--trials", type=int, default=4, metavar="N")
    parser.add_argument("--epochs", type=int, default=500, metavar="N")
    parser.add_argument("--mean-pause", type=float, default=6.0, metavar="SECONDS", help="between two kills")
    parser.add_argument("--set", action="append", default=[], metavar="KEY=VALUE", help="override the study's config")
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory(prefix="switchyard-chaos-") as folder:
        print(f"undisturbed: {arguments.trials} trials of {arguments.epochs} epochs", flush=True)
        undisturbed = place(Path(folder) / "undisturbed", arguments.trials, arguments.epochs, arguments.set)
        finished = undisturbed.run(within_s=3600)
        if finished.exit_code:
            print(finished.output)
            return 1
        under_fire = StudyUnderFire(
            Path(folder) / "under-fire",
            arguments.trials,
            arguments.epochs,
            arguments.seed,
            arguments.mean_pause,
            arguments.set,
        )
        outcome = under_fire.run(arguments.kills)
        differences = outcome.differences(undisturbed)
        attempts = sum(trial.user_attrs.get("attempt_count", 0) for trial in outcome.trials)
        print(outcome.table())
        print(
            f"\n{len(outcome.kills)} kills, {outcome.drivers} drivers, {attempts} attempts for {len(outcome.trials)} "
            f"trials in {outcome.wall_s / 60:.0f} minutes; exit code {outcome.exit_code}"
        )
        if outcome.exit_code:
            print(outcome.output[-3000:])
        print(
            "\n".join(differences) or "trials, values, epochs, verdicts and weights are those of the undisturbed study"
        )
        return 1 if differences or outcome.exit_code or len(outcome.kills) < arguments.kills else 0


if __name__ == "__main__":
    sys.exit(main())
