"""Options of Flower, read by ``celery -A workers.app flower`` in this folder."""

from celeriac.errors import CeleriacError
from celeriac.settings import get_settings
from workers import flower
from workers.app import app

try:
    globals().update(flower.options(get_settings()))
    app.conf.task_queues = flower.queues()
    app.conf.broker_use_ssl = flower.tls(get_settings().broker_url)
except CeleriacError as error:
    raise SystemExit(f"celeriac: {error.message}") from None
flower.hide_running_arguments()
flower.bound_end()
