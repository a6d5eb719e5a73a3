"""Names of what is kept in Redis. Each says who owns it, or when it expires.

Those of the result cache and of moderation are in their packages; names of queues and tasks, and
what travels between them, in :mod:`celeriac.messages`.
"""

from __future__ import annotations

# --- catalogue, replies, results --------------------------------------------------------------

CATALOGUE_KEY = "celeriac:catalogue"
"""The published catalogue (JSON). Owned by the maintenance role, which republishes it."""

GENERATION_KEY = "celeriac:catalogue:generation"
"""Goes up by one with every change of the catalogue. Owned by the maintenance role."""


def reply_key(client_id: str) -> str:
    """Reply list of one client process. Expires :data:`REPLY_TTL_S` after the last reply."""
    return f"celeriac:reply:{client_id}"


REPLY_TTL_S = 60


def result_key(task_id: str) -> str:
    """Where Celery's Redis result backend keeps a result, and the channel that announces it."""
    return f"celery-task-meta-{task_id}"


# --- submissions and their webhooks -----------------------------------------------------------


def submission_key(tenant: str, prediction_id: str) -> str:
    """Hash of one submitted prediction (``client.submit``). Owned by the reconciler until it ends;
    then it expires ``[submissions] kept_s`` after the time that it was given."""
    return f"{SUBMISSION_PREFIX}{tenant}:{prediction_id}"


SUBMISSION_PREFIX = "celeriac:submission:"

SUBMISSIONS_OPEN_KEY = "celeriac:submissions:open"
"""Sorted set of submissions that have not ended, as ``TENANT:ID``, by the time (Unix ms) at which
the reconciler must look at them. Owned by the reconciler."""

SUBMISSIONS_ENDED_KEY = "celeriac:submissions:ended"
"""Sorted set of those that have ended, by the time at which they are forgotten. Trimmed by who
submits."""

SUBMISSIONS_BYTES_KEY = "celeriac:submissions:bytes"
"""Bytes of all open submissions' items. Each change of the ledger keeps it; owned by the
reconciler."""

SUBMISSIONS_TENANT_PREFIX = "celeriac:submissions:tenant:"
"""Before a tenant: hash of its open submissions, their bytes, and how fast they end. Gone with the
last open one."""

SUBMISSIONS_TENANT_ENDED_PREFIX = "celeriac:submissions:ended:"
"""Before a tenant: as :data:`SUBMISSIONS_ENDED_KEY`. Trimmed when the tenant submits; expires with
the last in it."""

SUBMISSIONS_PACE_KEY = "celeriac:submissions:pace"
"""Hash that says how fast submissions end. Expires some minutes after the last one ended."""

SUBMISSIONS_LINES_KEY = "celeriac:submissions:lines"
"""Set of the lines, ``QUEUE:MODEL``, in which submissions may wait. Owned by the reconciler, which
drops empty ones."""

SUBMISSIONS_WAITING_PREFIX = "celeriac:submissions:waiting:"
"""Before the name of a line: sorted set of the submissions that wait in it, by the time (Unix us)
since when. Gone when it is empty."""


def submission_line(queue: str, model: str) -> str:
    """The line in which the submissions of one model wait for the workers of ``queue``."""
    return f"{queue}:{model}"


WEBHOOK_PREFIX = "celeriac:webhook:"
"""Before the id of a delivery: hash of one webhook that is to be sent. Expires with its prediction,
or :data:`WEBHOOK_TTL_S` after it was made if that is later."""

WEBHOOK_TTL_S = 86_400

WEBHOOKS_DUE_PREFIX = "celeriac:webhooks:due:"
"""Before a host: sorted set of the deliveries to it by the time (Unix ms) at which they are due.
Owned by the reconciler."""

WEBHOOK_HOSTS_KEY = "celeriac:webhooks:hosts"
"""Set of the hosts that deliveries wait for. Owned by the reconciler, which drops idle ones."""

WEBHOOKS_SENDER_KEY = "celeriac:webhooks:sender"
"""Says that a process sends webhooks. Renewed while it does; expires soon after it was killed."""

WEBHOOKS_SILENT_PREFIX = "celeriac:webhooks:silent:"
"""Before a host: hash that says since how many attempts it has not answered, and until when it is
left alone. Expires some minutes after that."""

# --- jobs -------------------------------------------------------------------------------------


def job_key(job_id: str) -> str:
    """Hash of one batch job. Expires ``[batch] job_ttl_s`` after its end, or the last look of the
    reconciler at one that is open."""
    return f"celeriac:job:{job_id}"


def job_part_key(job_id: str, part: str) -> str:
    """Where the chunks of one batch job are: ``done`` is a set of their numbers, ``waiting``,
    ``queued`` and ``running`` are sorted sets, ``dead`` and ``claims`` hashes.
    Expires with :func:`job_key`."""
    return f"celeriac:job:{job_id}:{part}"


def plan_request_key(request_id: str) -> str:
    """A dataset that a worker is asked to plan while its submitter waits (JSON). Gone when a worker
    takes it; expires :data:`PLAN_REQUEST_S` after a kill."""
    return f"celeriac:plan:{request_id}"


def plan_replies_key(request_id: str) -> str:
    """List of what the worker says to that: how far it is, then the plan. Emptied by the submitter;
    expires :data:`PLAN_REQUEST_S` after the last one came."""
    return f"celeriac:plan:{request_id}:replies"


PLAN_REQUEST_S = 60

ACTIVE_JOBS_KEY = "celeriac:jobs:active"
"""Set of the ids of jobs that have not ended. Owned by the reconciler, which drops what Redis has
forgotten."""

JOBS_KEY = "celeriac:jobs"
"""Sorted set of job ids by creation time. Trimmed to the newest 1,000 by who adds to it."""


def tenant_jobs_key(tenant: str) -> str:
    """The same of one tenant's jobs; expires 30 days after the last one was added."""
    return f"celeriac:jobs:tenant:{tenant}"


# --- nights and alerts ------------------------------------------------------------------------


def nightly_slot_key(name: str) -> str:
    """The run of a schedule that has not ended (JSON). Owned by the task that it names: it
    renews it while it plans, and it expires :data:`NIGHTLY_PLANNING_S` after a kill; then with its
    job."""
    return f"celeriac:nightly:slot:{name}"


def nightly_sent_key(name: str, date: str) -> str:
    """Says that the watch has sent the run of a date. Expires after :data:`NIGHTLY_SENT_S`, and a
    run that has not begun is sent again."""
    return f"celeriac:nightly:sent:{date}:{name}"


def nightly_waiting_key(name: str) -> str:
    """Hash of dates that wait for the schedule's slot, to the attempt. Owned by the watch; expires
    :data:`NIGHTLY_WAITING_S` after the last one came."""
    return f"celeriac:nightly:waiting:{name}"


def nightly_events_key(name: str) -> str:
    """List of what happened to a schedule's runs (JSON), newest first. Trimmed to 500 by who adds
    to it; expires :data:`NIGHTLY_EVENTS_S` after the last one."""
    return f"celeriac:nightly:events:{name}"


def nightly_status_key(name: str) -> str:
    """What the watch saw of a schedule (JSON). Owned by ``celeriac.nightly.watch``, which writes
    it anew; expires :data:`NIGHTLY_STATUS_S` after its last look."""
    return f"celeriac:nightly:status:{name}"


def nightly_drift_key(name: str, date: str, attempt: int) -> str:
    """Says that what a job of a schedule has found of drift was announced. Expires after
    :data:`ALERT_S`."""
    return f"celeriac:nightly:drift:{date}:{attempt}:{name}"


NIGHTLY_PLANNING_S = 60
NIGHTLY_SENT_S = 600
NIGHTLY_WAITING_S = 35 * 86_400
NIGHTLY_EVENTS_S = 90 * 86_400
NIGHTLY_STATUS_S = 86_400

ALERTS_PENDING_KEY = "celeriac:alerts:pending"
"""List of alerts that are to be delivered (JSON), the oldest first. Emptied by
``celeriac.alerts.send``; trimmed to 1,000; expires :data:`ALERTS_PENDING_S` after the last came."""

ALERTS_SENDER_KEY = "celeriac:alerts:sender"
"""The task that delivers an alert now. Owned by it; expires soon after its time limit."""


def alert_key(kind: str, at: str, number: int, about: str) -> str:
    """Says that an alert has been sent: of a date and attempt of a schedule, or of a time and
    version of a model. Expires after :data:`ALERT_S`."""
    return f"celeriac:alert:{kind}:{at}:{number}:{about}"


ALERTS_PENDING_S = 86_400
ALERT_S = 35 * 86_400

# --- labels -----------------------------------------------------------------------------------

FEEDBACK_KEY_KEY = "celeriac:feedback:key"
"""What signs the ids of predictions where ``[feedback] secret`` is not set. Owned by the
installation: made by who needs it first, never replaced."""

FEEDBACK_VERSIONS_KEY = "celeriac:feedback:versions"
"""Sorted set of the versions that have labels, as ``MODEL:VERSION``, by the time of the last one.
Trimmed by ``celeriac.drift.labels``; expires ``[feedback] kept_s`` after the last label."""


def feedback_seen_key(model: str, version: int, day: int) -> str:
    """Set of the predictions of one day (days since 1970) that have their label. Expires once
    their ids are accepted no more; at most ``[feedback] max_per_day``."""
    return f"celeriac:feedback:seen:{model}:{version}:{day}"


def feedback_counts_key(model: str, version: int, day: int) -> str:
    """Hash of how the predictions of one day turned out, by five minutes. Expires
    ``[feedback] kept_s`` after the last label."""
    return f"celeriac:feedback:counts:{model}:{version}:{day}"


def feedback_stream_key(model: str, version: int) -> str:
    """List of the errors of a version in the order in which their labels came. Emptied by
    ``celeriac.drift.labels``; expires ``[feedback] kept_s`` after the last label."""
    return f"celeriac:feedback:stream:{model}:{version}"


def feedback_test_key(model: str, version: int) -> str:
    """Where the test of a version's errors stands (JSON). Owned by ``celeriac.drift.labels``;
    expires ``[feedback] kept_s`` after its last change."""
    return f"celeriac:feedback:test:{model}:{version}"


# --- drift and adaptation ---------------------------------------------------------------------


def drift_counts_key(model: str, version: int) -> str:
    """Hash of what workers have counted of a version's items, by stretch of time and process.
    Trimmed by who counts; expires :data:`DRIFT_KEPT_S` after the last item."""
    return f"celeriac:drift:counts:{model}:{version}"


def drift_times_key(model: str, version: int) -> str:
    """Sorted set of the fields of :func:`drift_counts_key`, by the Unix time at which each begins.
    Trimmed and expires with it."""
    return f"celeriac:drift:times:{model}:{version}"


DRIFT_COUNTED_KEY = "celeriac:drift:counted"
"""Sorted set of the versions, as ``NAME@VERSION``, whose items are counted, by the Unix time of the
last. Trimmed by the watch; expires :data:`DRIFT_KEPT_S` after the last item of any."""


def drift_standing_key(model: str, version: int) -> str:
    """How a version's items stand (JSON). Owned by ``celeriac.drift.watch``, which writes it anew;
    expires :data:`DRIFT_KEPT_S` after its last look."""
    return f"celeriac:drift:standing:{model}:{version}"


DRIFT_STANDINGS_KEY = "celeriac:drift:standings"
"""Set of the versions, as ``NAME@VERSION``, that have a :func:`drift_standing_key`. Owned by the
watch; expires with the last of them."""

DRIFT_WATCHER_KEY = "celeriac:drift:watcher"
"""The task that watches now. Owned by it; expires :data:`DRIFT_WATCHER_S` after a kill."""

DRIFT_KEPT_S = 8 * 86_400
DRIFT_WATCHER_S = 60


def adapting_key(model: str) -> str:
    """The task that carries the adaptation of a model on now. Owned by it; after a kill it expires
    with the longest that a step may take."""
    return f"celeriac:drift:adapting:{model}"


def drift_unasked_key(model: str) -> str:
    """List of the events that the policy of a model is to be asked about, the oldest first. Emptied
    by the looks of beat, trimmed by who adds; expires 31 days after the last one came."""
    return f"celeriac:drift:unasked:{model}"


def drift_asker_key(model: str) -> str:
    """The task that asks the policy of a model now. Owned by it; expires a minute after a kill."""
    return f"celeriac:drift:asker:{model}"


# --- sensors ----------------------------------------------------------------------------------

SENSOR_PREFIX = "celeriac:sensor:"
"""Before ``WHAT:TENANT:SENSOR``, what is known of one sensor. ``state``, ``batches`` (a hash that
counts them) and ``analyses`` (a list, trimmed to ``[sensors] kept_analyses``) expire ``[sensors]
forget_after_s`` after its last reading or analysis. ``readings:TENANT:CHANNELS:SENSOR``, what waits
for the next analysis, is owned by the sweep, which seals it as a batch after ``batch_s``."""

SENSOR_BATCH_PREFIX = "celeriac:sensors:batch:"
"""Before the number of a batch: hash of readings that are to be analysed. Owned by the sweep until
their analysis is kept; one that was given up expires after ``forget_after_s``."""

SENSORS_READY_KEY = "celeriac:sensors:ready"
"""Sorted set of the batches by the time (Unix ms) from which they may be taken. Owned by the
sweep."""

SENSORS_DUE_KEY = "celeriac:sensors:due"
"""Sorted set of the sensors with readings that wait, as ``TENANT:CHANNELS:SENSOR``, by the time
(Unix ms) at which these are sealed. Owned by the sweep."""

SENSORS_COUNT_KEY = "celeriac:sensors:count"
"""Number of the last batch. One number, kept for good."""

SENSORS_READY_BYTES_KEY = "celeriac:sensors:ready_bytes"
"""Bytes of the batches that wait for their analysis, about. Gone when none waits."""

SENSORS_CALLED_KEY = "celeriac:sensors:called"
"""Says that a message calls for an analysis. Gone when a worker begins; expires after 5 s."""


def sensors_key(tenant: str) -> str:
    """Sorted set of a tenant's sensors by their last reading (Unix ms, within a tenth of
    ``[sensors] forget_after_s``), with which it expires. Trimmed by who adds to it."""
    return f"celeriac:sensors:known:{tenant}"


def sensor_alarms_key(tenant: str) -> str:
    """List of alarms that opened and closed (JSON), the newest first. Trimmed to 1,000 by who adds
    to it; expires ``[sensors] forget_after_s`` after the last one."""
    return f"celeriac:sensors:alarms:{tenant}"


# --- processes --------------------------------------------------------------------------------


def worker_key(hostname: str) -> str:
    """What a live worker says of itself (JSON). Expires 15 s after its last heartbeat."""
    return f"celeriac:worker:{hostname}"


def lanes_key(device: str) -> str:
    """Sorted set of the workers whose lanes share the queues of ``device``, by their last
    heartbeat. Expires 15 s after the last one."""
    return f"celeriac:lanes:{device}"


WORKER_TTL_S = 15


def seen_key(role: str) -> str:
    """Says that a worker of a role (or of one model's queue) was heard of late. Expires
    :data:`SEEN_S` after the last heartbeat."""
    return f"celeriac:seen:{role}"


SEEN_S = 60
"""A role is absent when none of its workers was heard for so long: a restart is no absence."""


def beat_key(beat_id: str) -> str:
    """What a live beat says of itself (JSON). Expires 15 s after its last heartbeat."""
    return f"celeriac:beat:{beat_id}"


def gateway_key(gateway_id: str) -> str:
    """What a live gateway says of itself (JSON). Expires 15 s after its last heartbeat."""
    return f"celeriac:gateway:{gateway_id}"


def rate_key(name: str) -> str:
    """Hash with the tokens that an API key of the gateway has left. Owned by the gateways; expires
    once its bucket would be full again."""
    return f"celeriac:rate:{name}"
