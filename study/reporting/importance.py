"""How much each hyperparameter mattered, by Optuna's PED-ANOVA."""

from __future__ import annotations

import warnings
from collections.abc import Sequence

import optuna
from optuna.trial import create_trial

from study.reporting.load import Arm

MIN_CONFIGURATIONS = 10
_TOP_CONFIGURATIONS = 5
"""That PED-ANOVA needs above its quantile to be stable, as its documentation says."""


def importances(arms: Sequence[Arm]) -> dict[str, dict[str, float]]:
    """The share of each parameter by arm; without those arms that have too few configurations."""
    found = {arm.name: _importances(arm) for arm in arms}
    return {name: shares for name, shares in found.items() if shares}


def _importances(arm: Arm) -> dict[str, float]:
    scored = [(c, mean) for c in arm.configurations if (mean := c.mean(arm.objective)) is not None]
    if len(scored) < MIN_CONFIGURATIONS:
        return {}
    # Imported here: it brings scikit-learn where that is installed, which takes seconds.
    from optuna.importance import PedAnovaImportanceEvaluator, get_param_importances

    # Seeds of one configuration are no configurations of their own.
    study = optuna.create_study(direction="maximize")
    study.add_trials(
        [
            create_trial(params=dict(c.parameters), distributions=dict(c.completed[0].distributions), value=mean)
            for c, mean in scored
        ]
    )
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", optuna.exceptions.ExperimentalWarning)
        evaluator = PedAnovaImportanceEvaluator(target_quantile=max(0.1, _TOP_CONFIGURATIONS / len(scored)))
        return dict(get_param_importances(study, evaluator=evaluator))
