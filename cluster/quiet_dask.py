"""Dask's scheduler and worker without their HTTP servers.

Both serve pages and metrics to whoever asks, on all interfaces, even when the dashboard is off. Login nodes are
shared, so here they do not listen at all; what a study does is shown by optuna-dashboard.
"""

from __future__ import annotations

from distributed import Scheduler, Worker


class _ServesNoHttp:
    def start_http_server(self, *arguments: object, **options: object) -> None:
        """Called by Dask's constructors, whatever the configuration says."""


class QuietScheduler(_ServesNoHttp, Scheduler):
    pass


class QuietWorker(_ServesNoHttp, Worker):
    pass
