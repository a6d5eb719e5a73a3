"""Celery settings of the worker side, each with its reason.

What depends on the role of a worker (pool, queues, lease) is in ``workers/roles.py``.
"""

from celeriac.messages import (
    BATCH_CHUNK,
    MAINTENANCE_QUEUE,
    PREDICT,
    PREDICT_SUBMITTED,
    SENSORS_ANALYSE,
    batch_queue,
    predict_queue,
)
from celeriac.settings import get_settings
from tasks.schedule import beat_schedule as _beat_schedule

_settings = get_settings()

broker_url = _settings.broker_url
result_backend = f"workers.backend.ResultBackend+{_settings.broker_url}"

# Messages are data: nothing that came over a wire is ever unpickled.
task_serializer = result_serializer = event_serializer = "json"
accept_content = result_accept_content = ["json"]
timezone = "UTC"  # a night has a time zone of its own: celeriac.nightly.calendar

imports = [
    "tasks.predict", "tasks.submissions", "tasks.models", "tasks.batch", "tasks.nightly",
    "tasks.alerts", "tasks.webhooks", "tasks.drift", "tasks.drift_notices", "tasks.drift_labels",
    "tasks.sensors", "tasks.moderation", "tasks.adaptation",
]
task_default_queue = MAINTENANCE_QUEUE  # nothing may fall into a queue that nobody serves
# For `celery call` and the like: only these queues' workers follow promotions, or have the time.
task_routes = {
    PREDICT: {"queue": predict_queue("cpu")},
    PREDICT_SUBMITTED: {"queue": predict_queue("cpu")},
    BATCH_CHUNK: {"queue": batch_queue("cpu")},
    SENSORS_ANALYSE: {"queue": batch_queue("cpu")},
}
beat_schedule = _beat_schedule(_settings)
beat_scheduler = "workers.beat_scheduler:Scheduler"  # goes on when the clock is set back
beat_sync_every = 1  # what has been sent is on disk before the next is due

# A task that was under way when its worker died runs again: all of ours can be repeated.
task_acks_late = True
# A child that is killed counts as one of the task's three attempts; never an endless loop.
task_retry_on_worker_lost = True
task_acks_on_failure = task_acks_on_timeout = True
worker_prefetch_multiplier = 1  # a waiting chunk belongs to whoever is free first
worker_disable_prefetch = True
worker_cancel_long_running_tasks_on_connection_loss = False  # a repeated chunk changes nothing

result_expires = 3_600  # answers are fetched at once; what is fetched later is submitted
task_track_started = False  # would double the stores of each task
result_backend_always_retry = True
result_backend_max_retries = 5  # the default is to try for ever

worker_send_task_events = True  # Flower sees every task of the main loop
worker_hijack_root_logger = False  # logs are ours: celeriac.logs
worker_redirect_stdouts = False
worker_proc_alive_timeout = 180  # a new child imports model libraries: the default of 4 s kills it
worker_enable_remote_control = True

broker_connection_retry_on_startup = True
broker_connection_max_retries = None  # a worker outlives a restart of Redis
broker_pool_acquire_timeout = 5
broker_transport_options = {
    "socket_timeout": _settings.broker.socket_timeout_s,
    "socket_connect_timeout": _settings.broker.connect_timeout_s,
    "socket_keepalive": True,
    "health_check_interval": 10,  # notices a half-open connection
    "priority_steps": [0],  # queues per class instead of emulated priorities
    "queue_order_strategy": "priority",
    # After a kill: found within seconds, where the defaults take 100 s and can block for 300.
    "unacked_restore_interval": 2,
    "unacked_restore_throttle": 1,
    "unacked_mutex_expire": 10,
}
redis_socket_timeout = _settings.broker.socket_timeout_s
redis_socket_connect_timeout = _settings.broker.connect_timeout_s
redis_socket_keepalive = True
redis_backend_health_check_interval = 15
