"""The Celery app of the consuming side: ``celery -A workers.app worker -Q batch.cpu``.

What must be decided before a model library or the metrics are imported is decided here, from the
command line's ``-Q``; the rest of the role's settings follow in ``workers/lifecycle.py``.
"""

from __future__ import annotations

import sys

from celery import Celery

from celeriac.errors import CeleriacError
from celeriac.settings import get_settings
from workers import environment, roles, transport

try:
    get_settings()  # celeryconfig.py reads them too, where a typo would be a page of traceback
    environment.prepare(
        roles.queues_in(sys.argv), roles.pool_in(sys.argv), roles.concurrency_in(sys.argv)
    )
except CeleriacError as error:
    sys.stderr.write(f"celeriac: {error.message}\n")
    raise SystemExit(error.exit_code) from None

transport.install()
app = Celery("celeriac", amqp="workers.connections:AMQP")
app.config_from_object("celeryconfig")

# Beat asks for the backend when it is told to stop, which may be while it imports it first.
from workers import backend, lifecycle  # noqa: E402, F401 - they need the prepared environment

lifecycle.install(app)
