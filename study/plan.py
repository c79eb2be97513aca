"""One study, decided: made once, printed by the dry run, executed by the run."""

from __future__ import annotations

from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any

from sqlalchemy.engine import URL

from cluster.profile import SiteProfile
from cluster.toml_tables import check_text
from storage.protocol.attempts import AttemptRequest, RankLayout
from storage.protocol.records import KINDS, ComponentSpec, RankGrowth, TrialSpec
from storage.protocol.variables import REQUIRES_ENERGY, TRIALS_ON_MACHINE
from study.config import StudyConfig
from study.own_code import CodeFolders
from study.seeds import derive_seed


@dataclass(frozen=True)
class StudyPlan:
    """What is trained, where, and how much of it at once."""

    config: StudyConfig
    site: SiteProfile
    layout: RankLayout
    """Of a trial that begins."""
    slots: int
    """Such trials at once."""
    database: URL
    """Without password."""
    folder: Path
    """Of the study, absolute: its trials' folders, its log, its jobs."""
    code_folders: CodeFolders = field(default_factory=lambda: CodeFolders(()))
    """Where the packages of components that are not bundled lie, unless they are installed."""

    @classmethod
    def make(cls, config: StudyConfig, site: SiteProfile, cores: int, database: URL) -> StudyPlan:
        """
        Args:
            cores: Of this machine, on which the ranks run if the site has no jobs.

        Raises:
            TablesError: The study's folder, with all above it, has a name that no job script can hold.
            ResourcesError: A trial would take more nodes than there are.
        """
        folder = (config.study.runs_dir / config.study.name).resolve()
        check_text(str(folder), f"the study's folder {str(folder)!r}")
        code_folders = CodeFolders.here() if config.own_components() else CodeFolders(())
        for path in code_folders.paths:
            check_text(str(path), f"the folder {str(path)!r}, in which packages are looked for,")
        layout, slots = site.layout(cores), site.concurrent_trials(cores)
        if nodes_per_rung := config.resources.nodes_per_rung:
            nodes_at_once = slots * site.nodes_per_trial
            config.resources.require_nodes(site, nodes_at_once)
            layout, slots = site.layout_on(nodes_per_rung[0], layout), nodes_at_once // nodes_per_rung[0]
        return cls(config, site, layout, slots, database, folder, code_folders)

    @property
    def name(self) -> str:
        return self.config.study.name

    @property
    def ranks_at_once(self) -> int:
        """Of all trials together."""
        return max(self.slots * self.layout.world_size, *(growth.world_size for growth in self.growth), 0)

    @cached_property
    def growth(self) -> tuple[RankGrowth, ...]:
        """Where the ranks of a trial become more."""
        config = self.config
        return config.resources.growth(config.pruner.resolved(config.training.epochs), self.site.ranks_per_node)

    def layout_at(self, epochs_done: int) -> RankLayout:
        """Where the ranks go that train a trial's next epoch."""
        ranks = [growth.world_size for growth in self.growth if growth.epoch <= epochs_done]
        return self.site.layout_on(ranks[-1] // self.site.ranks_per_node, self.layout) if ranks else self.layout

    def trial_path(self, number: int) -> Path:
        return self.folder / "trials" / f"{number:04d}"

    def spec(self, number: int, sampled: dict[str, Any], study_uuid: str) -> TrialSpec:
        """What the ranks of a trial are told to train."""
        settings = self.config.training
        components = {
            kind: _with_absolute_path(component) for kind, component in self.config.component_specs(sampled).items()
        }
        return TrialSpec(
            study_name=self.name,
            study_uuid=study_uuid,
            trial_number=number,
            seed=derive_seed(self.config.study.seed, number),
            epochs=settings.epochs,
            world_size=self.layout.world_size,
            loader_batch_size=settings.loader_batch_size,
            cache_dir=str(self.config.study.cache_dir.resolve()),
            checkpoint_every_epochs=settings.checkpoint_every_epochs,
            accumulation_steps=settings.accumulation_steps,
            precision=settings.precision,
            jit=settings.jit,
            moving_statistics=settings.moving_statistics,
            deterministic=settings.deterministic,
            objective=self.config.study.objective,
            objective_epoch=self.config.study.objective_epoch,
            patience=settings.patience,
            test_split=self.config.study.test_split,
            growth=self.growth,
            batch_scaling=self.config.resources.batch,
            **components,
        )

    def request(
        self, trial_number: int, attempt_number: int, time_left_s: float, epochs_done: int = 0
    ) -> AttemptRequest:
        """What a runner is told to start.

        Args:
            time_left_s: Of the allocation; infinite if nothing ends it.
            epochs_done: By the trial's earlier attempts.
        """
        return AttemptRequest(
            trial_dir=self.trial_path(trial_number),
            trial_number=trial_number,
            attempt_number=attempt_number,
            layout=self.layout_at(epochs_done),
            launcher_name=self.site.launcher,
            launcher_options=self.site.launcher_options,
            environment=self.rank_environment,
            grace_s=self.site.checkpoint_grace_s,
            rendezvous_timeout_s=self.site.rendezvous_timeout_s,
            heartbeat_timeout_s=self.site.heartbeat_timeout_s,
            time_left_s=time_left_s,
            ranks_stay=self.site.resident_ranks,
            code_folders=self.code_folders.paths,
            code_sha256=self.code_sha256(),
        )

    @property
    def rank_environment(self) -> dict[str, str]:
        """What site and study add to the ranks' environment."""
        environment = self.site.rank_environment
        if self.config.study.needs_energy:
            environment |= {REQUIRES_ENERGY: "1"}
        if self.trials_on_machine > 1:
            environment |= {TRIALS_ON_MACHINE: str(self.trials_on_machine)}
        return environment

    @property
    def trials_on_machine(self) -> int:
        """At once. A job has its nodes for itself, as far as is known here."""
        return 1 if self.site.slurm is not None else min(self.slots, self.config.study.total_trials)

    def code_sha256(self) -> str:
        """Of the source of all components that are not bundled, as it is now; empty if there are none.

        Raises:
            OwnCodeError: A package is not there any more.
        """
        return self.code_folders.sha256(self.config.own_components())

    def full_config(self) -> dict[str, Any]:
        """The whole config as JSON, good from any folder: what it takes to train such trials again."""
        # What a config does not say of notifications stays unsaid.
        unsaid = set() if self.config.ends_to_tell() is not None else {"notify"}
        config = self.config.model_dump(mode="json", exclude={"study": {"storage"}, **dict.fromkeys(unsaid, True)})
        study = self.config.study
        config["study"] |= {"runs_dir": str(self.folder.parent), "cache_dir": str(study.cache_dir.resolve())}
        for kind in KINDS:
            component = getattr(self.config, kind)
            spec = _with_absolute_path(ComponentSpec(component.name, component.options))
            config[kind] = {"name": spec.name, **spec.options}
        return config

    def identity(self) -> dict[str, Any]:
        """What must not change between two runs of one study, or its trials would not compare."""
        return {**self.config.identity(), "world_size": self.layout.world_size}


def _with_absolute_path(component: ComponentSpec) -> ComponentSpec:
    """An option called `path` is a place in the file system, from where the driver was started: jobs run elsewhere."""
    path = component.options.get("path")
    if not isinstance(path, str):
        return component
    return ComponentSpec(component.name, {**component.options, "path": str(Path(path).expanduser().absolute())})
