"""What a worker counts. The first four names are the tutorial's; all others begin ``celeriac_``.

A prefork worker shares them among its processes, which must be arranged before this module is
imported: ``workers/app.py`` does so.
"""

from __future__ import annotations

import contextlib
import os

from prometheus_client import Counter, Gauge, Histogram, Summary

BATCH_SECONDS = Summary(
    "batch_inference_seconds", "Time to score one chunk of a dataset", ["model"]
)
REAL_TIME_SECONDS = Summary(
    "real_time_inference_seconds", "Time of one forward pass for single items", ["model"]
)
REQUESTS = Counter("inference_requests_total", "Items and rows that were scored", ["model", "kind"])
MODEL_VERSION = Gauge(
    "model_version", "Version that serves as champion; in a batch worker, that of its last chunk",
    ["model"], multiprocess_mode="mostrecent",
)

ITEM_ERRORS = Counter(
    "celeriac_item_errors_total", "Items and rows that got an error instead of an answer",
    ["model", "code"],
)
EXPIRED = Counter(
    "celeriac_expired_items_total", "Items dropped because their deadline had passed", ["place"]
)
BATCH_ITEMS = Histogram(
    "celeriac_lane_batch_items", "Items of one forward pass in the real-time lane", ["model"],
    buckets=(1, 2, 4, 8, 16, 32, 64, 128, 256, 512, 1024),
)
QUEUE_SECONDS = Histogram(
    "celeriac_lane_queue_seconds", "From a client's publishing to the lane's popping", ["model"],
    buckets=(0.0005, 0.001, 0.002, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5),
)
FILL = Histogram(
    "celeriac_lane_batch_fill", "Items of one forward pass as a share of the most it may take",
    ["model"], buckets=(0.05, 0.1, 0.25, 0.5, 0.75, 0.9, 1),
)
BATCHES = Counter(
    "celeriac_lane_batches_total", "Batches of the real-time lane by why they took no more",
    ["model", "closed"],
)
REFUSED = Counter(
    "celeriac_refused_items_total", "Items refused because too much waited already",
    ["model", "place"],
)
DUPLICATES = Counter(
    "celeriac_duplicate_envelopes_total",
    "Envelopes that came again: answered again, but not scored",
)
CLOCK_SKEW = Counter(
    "celeriac_clock_skew_total", "Envelopes from a clock more than a second ahead of this one"
)
LANE_ERRORS = Counter(
    "celeriac_lane_errors_total", "Exchanges and messages that the real-time lane gave up", ["kind"]
)
CACHE_REQUESTS = Counter(
    "celeriac_cache_requests_total", "Items that a worker looked up in the result cache",
    ["outcome"],
)
CACHE_WRITES = Counter(
    "celeriac_cache_writes_total", "Answers for the result cache by what became of them",
    ["outcome"],
)
LOAD_FAILURES = Counter(
    "celeriac_model_load_failures_total", "Versions that could not be loaded", ["model"]
)
CHUNKS = Counter("celeriac_batch_chunks_total", "Chunks by what became of them", ["outcome"])
RECONCILED = Counter(
    "celeriac_batch_reconciled_total", "What was lost of batch jobs and sent again", ["what"]
)
REPORT_FAILURES = Counter(
    "celeriac_batch_report_failures_total",
    "Samples and reports of batch jobs that could not be written; their jobs went on", ["what"],
)
SUBMISSIONS = Counter(
    "celeriac_submissions_total", "Runs of submitted predictions by what became of them",
    ["outcome"],
)
SUBMISSIONS_RECONCILED = Counter(
    "celeriac_submissions_reconciled_total",
    "What was lost of submitted predictions and put right", ["what"],
)
SUBMISSIONS_OPEN = Gauge(
    "celeriac_submissions_open", "Submitted predictions that have not ended",
    multiprocess_mode="mostrecent",
)
SENSOR_BATCHES = Counter(
    "celeriac_sensor_batches_total", "Batches of sensors' readings by what became of them",
    ["outcome"],
)
SENSOR_BATCHES_READY = Gauge(
    "celeriac_sensor_batches_ready", "Batches of sensors' readings that nobody has taken",
    multiprocess_mode="mostrecent",
)
WEBHOOKS = Counter(
    "celeriac_webhooks_total", "Attempts to send a webhook by what became of them", ["outcome"]
)
NIGHTLY_MISSED = Gauge(
    "celeriac_nightly_missed", "Dates of a nightly schedule that have no run", ["schedule"],
    multiprocess_mode="mostrecent",
)
NIGHTLY_LATE = Gauge(
    "celeriac_nightly_late", "Dates of a nightly schedule whose run should have ended",
    ["schedule"], multiprocess_mode="mostrecent",
)
NIGHTLY_FAILED = Gauge(
    "celeriac_nightly_failed", "Dates of a nightly schedule whose newest attempt has failed",
    ["schedule"], multiprocess_mode="mostrecent",
)
NIGHTLY_ERRORS = Gauge(
    "celeriac_nightly_errors", "Dates of a nightly schedule whose output lacks rows", ["schedule"],
    multiprocess_mode="mostrecent",
)
NIGHTLY_RUNS = Counter(
    "celeriac_nightly_runs_total", "Runs of a nightly schedule that began, or could not",
    ["schedule", "outcome"],
)
NIGHTLY_WATCHED = Gauge(
    "celeriac_nightly_watched_timestamp_seconds",
    "When the watch last looked at a nightly schedule (Unix time): old if beat is down",
    ["schedule"], multiprocess_mode="mostrecent",
)
DRIFT_EVENTS = Counter(
    "celeriac_drift_events_total", "Episodes of drift that opened or closed",
    ["model", "kind", "state"],
)
DRIFT_ITEMS = Counter(
    "celeriac_drift_items_total",
    "Single items of versions with a profile: counted, skipped (they come faster than they can be "
    "counted) or lost (Redis was away)", ["model", "outcome"],
)
DRIFT_DISTANCE = Gauge(
    "celeriac_drift_distance", "Distance of a feature's newest items from the reference, 0 to 1",
    ["model", "version", "feature"], multiprocess_mode="mostrecent",
)
DRIFT_THRESHOLD = Gauge(
    "celeriac_drift_threshold", "Distance beyond which a feature drifts",
    ["model", "version", "feature"], multiprocess_mode="mostrecent",
)
DRIFT_EPISODE = Gauge(
    "celeriac_drift_episode_open", "1 while an episode of a version is open",
    ["model", "version", "kind"], multiprocess_mode="mostrecent",
)
DRIFT_WINDOW = Gauge(
    "celeriac_drift_window_items", "Items of a version that were looked at together",
    ["model", "version"], multiprocess_mode="mostrecent",
)
DRIFT_WATCHED = Gauge(
    "celeriac_drift_watched_timestamp_seconds",
    "When the watch last looked at single items (Unix time): old if beat is down",
    multiprocess_mode="mostrecent",
)
LABELLED = Counter(
    "celeriac_labelled_total", "Labels that were tested, by the version that they judge",
    ["model", "version"],
)
LABELLED_AT = Gauge(
    "celeriac_labelled_timestamp_seconds",
    "When the last label of a version came (Unix time): its accuracy or error is as old",
    ["model", "version"], multiprocess_mode="mostrecent",
)
ACCURACY = Gauge(
    "celeriac_accuracy", "Share of right answers among the labelled ones of the last seven days",
    ["model", "version"], multiprocess_mode="mostrecent",
)
ABSOLUTE_ERROR = Gauge(
    "celeriac_absolute_error",
    "Mean absolute error of the labelled answers of the last seven days", ["model", "version"],
    multiprocess_mode="mostrecent",
)
DRIFT_ADAPTATIONS = Counter(
    "celeriac_drift_adaptations_total", "Steps of adaptations by what was done",
    ["model", "step"],
)
ALERTS = Counter(
    "celeriac_alerts_total", "Alerts by kind and by what became of them", ["kind", "outcome"]
)


def forget_version(model: str) -> None:
    """No version of the model serves any more. (Processes that share their metrics keep the last
    one: the library cannot take a label away from all of them.)"""
    if "PROMETHEUS_MULTIPROC_DIR" not in os.environ:
        with contextlib.suppress(KeyError):
            MODEL_VERSION.remove(model)
