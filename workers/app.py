"""The Celery app of the consuming side: ``celery -A workers.app worker -Q batch.cpu``.

What must be decided before a model library or the metrics are imported is decided here, from the
command line's ``-Q``; the rest of the role's settings follow in ``workers/lifecycle.py``.
"""

from __future__ import annotations

import sys

from celery import Celery

from workers import environment, roles

environment.prepare(roles.queues_in(sys.argv), roles.pool_in(sys.argv))

app = Celery("celeriac")
app.config_from_object("celeryconfig")

from workers import lifecycle  # noqa: E402 - its imports need the prepared environment

lifecycle.install(app)
