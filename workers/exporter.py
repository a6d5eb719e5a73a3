"""``/metrics`` and ``/health`` of one worker, on a port of its own."""

from __future__ import annotations

import errno
import json
import os
import threading
import time
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

from celery import bootsteps
from prometheus_client import (
    CONTENT_TYPE_LATEST,
    REGISTRY,
    CollectorRegistry,
    generate_latest,
    multiprocess,
)

from celeriac.logs import get_logger
from celeriac.settings import StackSettings, get_settings
from workers.environment import MULTIPROC_VARIABLE, is_alive
from workers.gpu_metrics import gpu_registry, render_gpu
from workers.roles import ROLES, Role

log = get_logger(__name__)

STALE_S = 30.0
"""A worker whose loop has not turned, or whom Redis has not answered, so long is not healthy."""
POLL_S = 0.05
"""How often the thread that serves looks whether to end; a worker that stops waits for it."""


def port_for(role: str, settings: StackSettings) -> int:
    """The metrics port of a role; 0 (any) if the settings say so, or for a plain worker."""
    names = [known.name for known in ROLES]
    if settings.metrics_port == 0 or role not in names:
        return 0
    return settings.metrics_port + names.index(role)


def render_metrics() -> bytes:
    """The metrics of this worker, its children's included."""
    folder = os.environ.get(MULTIPROC_VARIABLE)
    if not folder:
        return generate_latest(REGISTRY)
    _mark_dead_children(Path(folder))
    registry = CollectorRegistry()
    multiprocess.MultiProcessCollector(registry, path=folder)
    return generate_latest(registry)


def forget_child(pid: int) -> None:
    """Take the live gauges of a child that ended out of the metrics; its counts stay."""
    if os.environ.get(MULTIPROC_VARIABLE):
        multiprocess.mark_process_dead(pid)


def _mark_dead_children(folder: Path) -> None:
    # A child that was killed says no farewell.
    pids = {path.stem.rpartition("_")[2] for path in folder.glob("gauge_live*.db")}
    for pid in pids:
        if pid.isdigit() and not is_alive(int(pid)):
            multiprocess.mark_process_dead(int(pid))


def health(worker: Any, now: float) -> tuple[bool, dict[str, Any]]:
    """Whether a worker does its work, and what it says of itself. ``now`` is monotonic."""
    lane = getattr(worker, "celeriac_lane", None)
    beat = getattr(worker, "celeriac_heartbeat", None)
    found: dict[str, Any] = {"role": worker.celeriac_role.name}
    if beat is None:
        return False, {**found, "status": "starting"}
    ages = {"heartbeat_age_s": round(now - beat.last_beat, 1)}
    if lane is not None:
        ages["lane_age_s"] = round(now - lane.last_turn, 1)
    healthy = all(age < STALE_S for age in ages.values())
    return healthy, {**found, "status": "ok" if healthy else "stale", **ages}


class ExporterStep(bootsteps.StartStopStep):  # type: ignore[misc]
    """Serves from threads of the worker's main process."""

    requires = ("celery.worker.components:Pool",)

    def __init__(self, parent: Any, **options: Any) -> None:
        super().__init__(parent, **options)
        self._server: ThreadingHTTPServer | None = None

    def include_if(self, parent: Any) -> bool:
        return getattr(parent, "celeriac_role", None) is not None

    def start(self, parent: Any) -> None:
        role: Role = parent.celeriac_role
        settings = get_settings().stack
        known = {"worker": parent, "gpu": gpu_registry(os.environ)}
        handler = type("Handler", (_Handler,), known)
        port = port_for(role.name, settings)
        try:
            self._server = _listen(settings.metrics_host, port, handler)
        except OSError as error:
            log.error(  # noqa: TRY400 - the reason is enough
                "no metrics: change CELERIAC_STACK_METRICS_HOST or CELERIAC_STACK_METRICS_PORT",
                host=settings.metrics_host, port=port, reason=error.strerror,
            )
            return
        self._server.daemon_threads = True
        parent.celeriac_metrics_port = self._server.server_address[1]
        log.info("metrics served", host=settings.metrics_host, port=parent.celeriac_metrics_port)
        threading.Thread(
            target=self._server.serve_forever, args=(POLL_S,), name="exporter", daemon=True
        ).start()

    def stop(self, parent: Any) -> None:
        if self._server is not None:
            self._server.shutdown()
            self._server.server_close()
            self._server = None

    def terminate(self, parent: Any) -> None:
        self.stop(parent)


def _listen(host: str, port: int, handler: type[_Handler]) -> ThreadingHTTPServer:
    try:
        return ThreadingHTTPServer((host, port), handler)
    except OSError as error:
        if error.errno != errno.EADDRINUSE:
            raise
        # A second worker of a role on one machine: any free port serves it as well.
        log.warning("metrics port in use", port=port, reason=error.strerror)
        return ThreadingHTTPServer((host, 0), handler)


class _Handler(BaseHTTPRequestHandler):
    worker: Any = None
    gpu: CollectorRegistry | None = None
    timeout = 10

    def do_GET(self) -> None:
        if self.path.partition("?")[0] == "/metrics":
            self._answer(200, CONTENT_TYPE_LATEST, render_metrics() + render_gpu(self.gpu))
        elif self.path == "/health":
            healthy, found = health(self.worker, time.monotonic())
            body = json.dumps(found).encode()
            self._answer(200 if healthy else 503, "application/json", body)
        else:
            self._answer(404, "text/plain", b"see /metrics and /health\n")

    def _answer(self, status: int, content_type: str, body: bytes) -> None:
        self.send_response(status)
        self.send_header("Content-Type", content_type)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, format: str, *args: Any) -> None:
        log.debug("exporter", line=format % args)
