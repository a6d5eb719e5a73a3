"""The tables of ``celeriac.toml``; those of nights and adaptation have modules of their own."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Annotated, Literal

from pydantic import AfterValidator, Field, field_validator

from celeriac import errors
from celeriac.settings import certificates
from celeriac.settings.adapt import AdaptSettings
from celeriac.settings.nightly import NightlySettings, checked_apart, checked_model
from celeriac.settings.section import Section

_HOST = re.compile(r"([A-Za-z0-9._-]+|\[[0-9A-Fa-f:.]+\])(:[0-9]{1,5})?")


class BrokerSettings(Section):
    """``[broker]``: the Redis (or Valkey, 7.0 or newer) that carries everything."""

    url: str | None = None
    """``redis://host:port/db``, with TLS ``rediss://``. Unset: the embedded server of
    ``celeriac up``."""
    connect_timeout_s: Annotated[float, Field(gt=0, le=60)] = 2.0
    socket_timeout_s: Annotated[float, Field(ge=2, le=60)] = 5.0
    """A reply of Redis later than this counts as a broken connection."""


class StackSettings(Section):
    """``[stack]``: the local stack of ``celeriac up``."""

    state_dir: Path = Path(".celeriac")
    """Where the embedded server, the logs and the beat schedule keep their files."""
    redis_port: Annotated[int, Field(ge=1, le=65535)] = 6389
    flower_port: Annotated[int, Field(ge=1, le=65535)] = 5555
    metrics_port: Annotated[int, Field(ge=0, le=65535)] = 9401
    """First port of the workers' metrics: each role takes the next one. 0: any free ports."""
    metrics_host: str = "127.0.0.1"
    """Where the workers' metrics and health pages listen; they hold no payload."""
    batch_processes: Annotated[int, Field(ge=0, le=256)] = 0
    """Processes of the ``batch.cpu`` worker. 0: one per core."""
    ready_timeout_s: Annotated[float, Field(ge=1, le=86_400)] = 120.0
    """How long ``celeriac up`` waits for all that it starts; workers load their models in it."""


class WorkerSettings(Section):
    """``[worker]``: every role."""

    exit_timeout_s: Annotated[float, Field(ge=1, le=600)] = 10.0
    """After TERM a worker ends what it has begun; then the processes of its pool have so long to
    end, and after them the worker itself. What takes longer is killed."""


class FlowerSettings(Section):
    """``[flower]``: where Flower listens. Beyond loopback it needs a password."""

    host: str = "127.0.0.1"
    basic_auth: str = ""
    """``user:password``."""


class ModelsSettings(Section):
    """``[models]``: the registry, and what a model file may contain."""

    root: Path = Path("models")
    trusted_types: tuple[str, ...] = ()
    """Types beyond scikit-learn's, numpy's and scipy's own that a skops file may hold."""
    architectures: tuple[str, ...] = ("celeriac.runtimes.architectures",)
    """Module prefixes that a torch architecture (``package.module:Class``) may come from."""
    runtimes: tuple[str, ...] = ()
    """Modules with runtimes for formats of others, as ``shop.models.booster_runtime``."""
    check_timeout_s: Annotated[float, Field(gt=0, le=3600)] = 25.0
    """Longest check of a version (load, golden examples, latency) before a promotion, and longest
    trial of one that has passed none before a worker loads it."""
    max_slowdown: Annotated[float, Field(ge=1, le=1e6)] = 2.0
    """So many times as long as with the champion may an item, or a batch, take with a version that
    is to be promoted."""
    load_timeout_s: Annotated[float, Field(gt=0, le=3600)] = 120.0
    """Longest load of a version in a real-time worker, or at the start of any; then its process
    ends."""
    keep_versions: Annotated[int, Field(ge=0, le=10_000)] = 0
    """So many of the newest versions of each model are kept; older ones that no alias and no work
    names are deleted each hour. 0: nothing is deleted by itself."""


class GpuSettings(Section):
    """``[gpu]``: which GPUs the gpu roles use, and how."""

    devices: tuple[str, ...] = ()
    """UUIDs, or numbers in the order of the PCI bus, of those that ``CUDA_VISIBLE_DEVICES`` leaves.
    Unset: all of them."""
    fallback: Literal["never", "when_absent"] = "never"
    """``when_absent``: while no GPU worker has been heard of for a minute, models for the GPU are
    answered by CPU workers. ``never``: then their items fail and their jobs wait."""
    tf32: bool = False
    """Networks in float32 multiply with a mantissa of 10 bits (TF32) where the GPU can: faster, and
    answers differ in the third digit."""


class RealtimeSettings(Section):
    """``[realtime]``: single items."""

    timeout_s: Annotated[float, Field(gt=0, le=3600)] = 5.0
    """How long ``predict`` waits when the caller does not say."""
    max_items: Annotated[int, Field(ge=1, le=100_000)] = 1_000
    """Items of one ``celeriac.predict`` task, at most."""
    max_item_bytes: Annotated[int, Field(ge=1_024, le=64_000_000)] = 1_000_000
    """One item on the wire, at most; larger data belongs into a dataset."""
    max_image_pixels: Annotated[int, Field(ge=1, le=1_000_000_000)] = 25_000_000
    """One image, at most; known from its header, before a pixel is decoded."""
    threads: Annotated[int, Field(ge=0, le=1_024)] = 1
    """Compute threads of a real-time worker's model; 0: as many as there are cores. Clients, the
    gateway and Redis need cores too. ``celeriac optimize`` shows what more would bring."""
    max_batch_items: Annotated[int, Field(ge=1, le=4_096)] = 256
    """Items that one forward pass takes, at most."""
    submission_ttl_s: Annotated[int, Field(ge=60, le=2_592_000)] = 86_400
    """Longest time that ``submit`` gives a prediction; also what it gives when nobody says."""
    drain_timeout_s: Annotated[float, Field(gt=0, le=600)] = 10.0
    """After TERM, how long the lane may take to answer what it has popped; the rest it gives back
    to its queue."""
    hang_timeout_s: Annotated[float, Field(ge=0.5, le=3_600)] = 30.0
    """Longest forward pass; then the worker's process ends, and its supervisor starts another."""
    max_queue_s: Annotated[float, Field(gt=0, le=3_600)] = 2.0
    """Expected wait in a model's queue, at most; what comes beyond it is refused."""
    max_queue_items: Annotated[int, Field(ge=1, le=10_000_000)] = 10_000
    """Items that may wait in a model's queue; what comes beyond them is refused, by its worker or
    by a client that sees how long the queue is."""
    event_sample: Annotated[float, Field(ge=0, le=1)] = 1.0
    """Share of the lane's envelopes that Flower sees; failures are always shown."""
    max_events_per_s: Annotated[int, Field(ge=1, le=100_000)] = 200
    """Answered envelopes of one worker that Flower sees in a second, at most."""


class CacheSettings(Section):
    """``[cache]``: answers that are kept for equal items, of versions with ``serving.cache``."""

    enabled: bool = True
    url: str | None = None
    """``redis://host:port/db``. Unset: the broker's. One of its own may evict what it likes."""
    ttl_s: Annotated[int, Field(ge=1, le=2_592_000)] = 3_600
    """How long an answer is kept."""
    timeout_ms: Annotated[int, Field(ge=1, le=5_000)] = 200
    """Longest wait for the cache; then it counts as broken for a second, and every item as new."""
    max_value_bytes: Annotated[int, Field(ge=64, le=16_000_000)] = 64_000
    """A larger answer is not kept."""
    max_entries: Annotated[int, Field(ge=2, le=100_000_000)] = 200_000
    """Answers of one worker process that are alive at the same time, at most; each takes about
    300 bytes of Redis."""


class SubmissionSettings(Section):
    """``[submissions]``: predictions that are fetched later (``client.submit``)."""

    lease_s: Annotated[float, Field(ge=1, le=3_600)] = 15.0
    """A prediction whose worker has not been heard of for so long goes to another one."""
    max_attempts: Annotated[int, Field(ge=1, le=100)] = 3
    """How often one is begun; then it has failed."""
    max_open: Annotated[int, Field(ge=1, le=10_000_000)] = 100_000
    """Predictions that have not ended, at most; more are refused ..."""
    max_open_bytes: Annotated[int, Field(ge=1_024)] = 500_000_000
    """... and so they are when the items of those take more than this in Redis."""
    max_known: Annotated[int, Field(ge=1, le=100_000_000)] = 1_000_000
    """Predictions that Redis knows, those that have ended among them, at most; each takes about a
    kilobyte."""
    max_tenant_share: Annotated[float, Field(gt=0, le=1)] = 0.5
    """Of each of these three limits, what one tenant may use."""
    kept_s: Annotated[int, Field(ge=1, le=2_592_000)] = 3_600
    """How long one can still be looked at after its time (``expires_s``)."""


class BatchSettings(Section):
    """``[batch]``: datasets."""

    chunk_rows: Annotated[int, Field(ge=1, le=100_000_000)] = 100_000
    """Rows of one chunk when the caller does not say; fewer when the dataset is small."""
    chunk_bytes: Annotated[int, Field(ge=1_024)] = 64_000_000
    """Bytes of one chunk's source, at most."""
    chunk_timeout_s: Annotated[int, Field(ge=1, le=86_400)] = 1_800
    """Longest run of one chunk; then its process is ended."""
    lease_s: Annotated[float, Field(ge=1, le=3_600)] = 15.0
    """A chunk whose process has not been heard of for so long goes to another one."""
    max_attempts: Annotated[int, Field(ge=1, le=100)] = 3
    """How often a chunk is tried; then it is given up, and the job goes on without it."""
    max_error_share: Annotated[float, Field(ge=0, le=1)] = 1.0
    """A job stops when more than this share of its rows has failed, unless the caller says another
    share. 1: never."""
    wave_chunks: Annotated[int, Field(ge=1, le=10_000)] = 16
    """Chunks of one job that are queued or running at the same time, at most: about four for each
    batch process of all workers together. Jobs take turns by as many."""
    sample_rows: Annotated[int, Field(ge=0, le=100_000)] = 100_000
    """Rows of a dataset that its report's statistics are made of, at most. 0: none is sampled."""
    job_ttl_s: Annotated[int, Field(ge=60)] = 604_800
    """How long Redis remembers a job after its last change. Its files stay."""


class FeedbackSettings(Section):
    """``[feedback]``: labels that come after their predictions."""

    secret: str = ""
    """Signs the ids of predictions. Unset: a key that is made once and kept in Redis; then no id
    outlives what Redis has."""
    accepted_s: Annotated[int, Field(ge=60, le=31_536_000)] = 2_592_000
    """How long after its prediction a label is taken."""
    kept_s: Annotated[int, Field(ge=3_600, le=63_072_000)] = 7_776_000
    """How long the counts of labels are kept after the last of them came."""
    max_per_day: Annotated[int, Field(ge=1, le=100_000_000)] = 1_000_000
    """Labels for the predictions that one version made on one day, at most; each takes about 60
    bytes of Redis until no more are taken."""
    labels_between_alarms: Annotated[int, Field(ge=100, le=100_000_000)] = 20_000
    """So many labels come between two false alarms of a version whose errors stay as they were."""
    first_labels: Annotated[int, Field(ge=50, le=100_000)] = 300
    """Of a version whose reference has no labels, these say how often it is wrong."""


class DriftSettings(Section):
    """``[drift]``: single items are compared with what their version was made for, and what is done
    about drift."""

    enabled: bool = True
    """Workers count the items of versions that have a profile, and the watch looks at them."""
    window_rows: Annotated[int, Field(ge=100, le=1_000_000)] = 1_000
    """The newest items of a version that are looked at together."""
    rows_between_alarms: Annotated[float, Field(ge=1_000, le=1e12)] = 100_000.0
    """Items that are counted between two false alarms of a version, on the average."""
    bucket_s: Annotated[float, Field(ge=0.5, le=3_600)] = 5.0
    """Items are counted by stretches of so many seconds, and looked at as often."""
    adapt: dict[str, AdaptSettings] = Field(default_factory=dict)
    """By model."""

    @field_validator("adapt")
    @classmethod
    def _of_models(cls, adapt: dict[str, AdaptSettings]) -> dict[str, AdaptSettings]:
        for name in adapt:
            if checked_model(name) and "@" in name:
                raise ValueError(f"{name!r} names a version; the table is of a model as a whole")
        return adapt


class AlertSettings(Section):
    """``[alerts]``: who is told of a night that failed, is late, was missed or lacks rows."""

    webhook: str = ""
    """An ``http(s)://`` URL that gets each alert by POST, as JSON. Redirects are not followed."""
    secret: str = ""
    """Key of the signature in ``X-Celeriac-Signature`` (HMAC-SHA256 of time and body)."""
    command: list[str] = Field(default_factory=list)
    """A program and its arguments, no shell; it gets the same JSON on its standard input."""
    timeout_s: Annotated[float, Field(ge=0.1, le=60)] = 10.0
    """Longest wait for one answer of the webhook, and longest run of the command."""
    tries: Annotated[int, Field(ge=1, le=5)] = 3
    """How often the webhook is called while it cannot be reached or has an error of its own."""

    @field_validator("webhook")
    @classmethod
    def _an_address(cls, url: str) -> str:
        if not url:
            return url
        from celeriac.webhooks import operators_target  # TLS and HTTP: few processes call any

        try:
            operators_target(url)
        except errors.RequestError as error:
            raise ValueError(
                "is no address; it looks like https://host/path, without a password, spaces or #"
            ) from error
        return url


Scope = Literal["infer", "batch", "admin"]


class KeySettings(Section):
    """``[gateway.keys.NAME]``: one API key of the gateway. NAME is what logs show."""

    sha256: Annotated[str, Field(pattern=r"^[0-9a-f]{64}$")]
    """SHA-256 of the key, in hexadecimal; `celeriac gateway-key NAME` makes both."""
    tenant: Annotated[str, Field(pattern=r"^[a-z0-9][a-z0-9_-]{0,62}$")] = "default"
    """Whose predictions and jobs the key sees."""
    scopes: tuple[Scope, ...] = ("infer",)
    """``infer`` (predictions, models), ``batch`` (jobs), ``admin`` (promote, metrics)."""
    rate_per_s: Annotated[float, Field(gt=0, le=1_000_000)] | None = None
    """Requests per second in the long run, over all gateways. Unset: no limit."""
    burst: Annotated[int, Field(ge=1, le=1_000_000)] | None = None
    """Requests at once, at most. Unset: those of two seconds."""


class GatewaySettings(Section):
    """``[gateway]``: HTTP in front of everything. Beyond loopback it needs keys."""

    host: str = "127.0.0.1"
    port: Annotated[int, Field(ge=0, le=65535)] = 8000
    admin_port: Annotated[int, Field(ge=0, le=65535)] = 8001
    """Promotion and metrics, always on loopback. For both ports, 0 takes any free one."""
    allowed_hosts: tuple[str, ...] = ()
    """Hosts (``host`` or ``host:port``) by which the gateway is reached beside loopback's own
    names, and whose pages may ask it through a proxy. Looked at without keys, and on the admin
    port."""
    classify_model: str = "reviews"
    """The model of ``POST /classify``."""
    timeout_s: Annotated[float, Field(gt=0, le=3_600)] = 5.0
    """Time for a request, from its first byte to the answer, when the caller does not say."""
    max_timeout_s: Annotated[float, Field(gt=0, le=3_600)] = 60.0
    """What a caller asks for beyond it (``X-Request-Timeout-Ms``) is cut to it."""
    max_body_bytes: Annotated[int, Field(ge=1_024, le=1_000_000_000)] = 16_000_000
    """Of an image, or of JSON with the binary data of tensors."""
    max_json_bytes: Annotated[int, Field(ge=1_024, le=1_000_000_000)] = 4_000_000
    """Of JSON: while it is read nobody else is answered, 6 ms for each of these megabytes."""
    max_items: Annotated[int, Field(ge=1, le=100_000)] = 1_000
    """Items of one request, at most."""
    max_depth: Annotated[int, Field(ge=2, le=500)] = 32
    """Nesting of a JSON body, at most."""
    max_concurrent: Annotated[int, Field(ge=1, le=100_000)] = 1_000
    """Requests at the same time, at most; what comes beyond them is refused with 503."""
    max_wait_s: Annotated[float, Field(gt=0, le=3_600)] = 0.05
    """Mean wait for a model's next batch, at most, or what two batches take if that is more: beyond
    it requests for the model are refused with 429 until it keeps up again."""
    drain_notice_s: Annotated[float, Field(ge=0, le=60)] = 0.5
    """After TERM, how long it still takes requests while its readiness is red, so that a balancer
    can notice."""
    drain_timeout_s: Annotated[float, Field(gt=0, le=600)] = 10.0
    """After that, how long the open requests may take."""
    access_log: bool = True
    """One line for each request, without payload."""
    dataset_roots: tuple[str, ...] = ()
    """Folders and ``s3://`` prefixes that jobs over HTTP may read from ..."""
    output_roots: tuple[str, ...] = ()
    """... and write to. Unset: no jobs over HTTP. In both, ``{tenant}`` is the caller's tenant."""
    max_event_streams: Annotated[int, Field(ge=1, le=10_000)] = 100
    """Streams of job events at the same time, at most."""
    webhook_hosts: tuple[str, ...] = ()
    """Hosts (``host`` or ``host:port``) that finished predictions may be posted to. No others."""
    webhook_secret: str = ""
    """Signs webhooks (HMAC-SHA256); without it there are none."""
    keys: dict[str, KeySettings] = Field(default_factory=dict)

    @field_validator("allowed_hosts")
    @classmethod
    def _hosts(cls, hosts: tuple[str, ...]) -> tuple[str, ...]:
        for host in hosts:
            if not _HOST.fullmatch(host):
                raise ValueError(
                    f"{host!r} is no host: give a name, or a name and a port, as 'ml.example.org' "
                    "or 'ml.example.org:8443', without http:// and without *"
                )
        return tuple(host.lower() for host in hosts)

    @field_validator("classify_model")
    @classmethod
    def _a_model(cls, model: str) -> str:
        return checked_model(model)


class ModerationSettings(Section):
    """``[moderation]``: content moderation (docs/moderation.md)."""

    policy: str = ""
    """The policy file. Empty: the example (``celeriac moderation policy --example``)."""
    folder: Path = Path(".celeriac/moderation")
    """Where records of decisions, and the policies that they name, are kept; gateways and callers
    that share it can explain each other's decisions."""
    audit_days: Annotated[int, Field(ge=1, le=3_650)] = 90
    """How long records are kept."""
    digest_key: str = ""
    """With it, records hold an HMAC of each part of a post instead of its SHA-256: of a short text
    that could be found by trying."""
    max_reviews: Annotated[int, Field(ge=1, le=10_000_000)] = 10_000
    """Posts of a tenant that wait for somebody to look at them, at most; beyond it a decision says
    that it was not queued."""
    review_days: Annotated[int, Field(ge=1, le=365)] = 14
    """How long one waits; then it is forgotten ..."""
    label_days: Annotated[int, Field(ge=1, le=3_650)] = 90
    """... and how long what somebody said can be exported, with the text."""


class SensorSettings(Section):
    """``[sensors]``: readings, their alarms and their analyses."""

    window: Annotated[int, Field(ge=20, le=1_000)] = 60
    """Readings that are remembered of each sensor: what a new one is compared with, and how many
    may overtake one that comes late. Each takes 16 bytes of Redis."""
    threshold: Annotated[float, Field(gt=0, le=1e6)] = 8.0
    """A reading so many (robust) standard deviations from the median is an anomaly."""
    min_scale: Annotated[float, Field(ge=0)] = 0.0
    """The least standard deviation that is believed, in the unit of the readings."""
    close_below: Annotated[float, Field(gt=0, le=1)] = 0.8
    """An alarm closes after scores below this share of the threshold ..."""
    close_readings: Annotated[int, Field(ge=1, le=255)] = 3
    """... of so many readings, one after the other."""
    batch_readings: Annotated[int, Field(ge=1, le=100_000)] = 1_000
    """After so many readings, a sensor's are analysed together ..."""
    batch_s: Annotated[float, Field(ge=1, le=86_400)] = 300.0
    """... or after so long, however few they are."""
    kept_analyses: Annotated[int, Field(ge=1, le=10_000)] = 20
    """Of each sensor, the newest; each takes about 700 bytes of Redis for a channel."""
    max_sensors: Annotated[int, Field(ge=1, le=10_000_000)] = 100_000
    """Of each tenant, at most; the first reading makes a sensor."""
    max_readings: Annotated[int, Field(ge=1, le=1_000_000)] = 20_000
    """Readings of one call, at most."""
    max_ready_mb: Annotated[int, Field(ge=1, le=1_000_000)] = 1_000
    """Readings in sealed batches that wait for their analysis, of all tenants: 24 bytes each, 8
    more for each further channel, and 400 for each batch. Beyond it readings are refused, so that
    Redis stays alive where no batch worker runs."""
    max_ahead_s: Annotated[float, Field(ge=0, le=86_400)] = 60.0
    """So far may a sensor's clock be ahead of ours."""
    forget_after_s: Annotated[int, Field(ge=60, le=31_536_000)] = 604_800
    """A sensor that was silent for so long is forgotten."""
    lease_s: Annotated[float, Field(ge=1, le=3_600)] = 30.0
    """Batches whose analysis takes longer go to another worker."""
    max_attempts: Annotated[int, Field(ge=1, le=100)] = 3
    """How often the analysis of a batch is begun; then it is given up."""


class LogSettings(Section):
    """``[log]``"""

    level: Literal["DEBUG", "INFO", "WARNING", "ERROR"] = "INFO"
    format: Literal["console", "json"] = "console"


class Settings(Section):
    """All settings. Each section is a table of ``celeriac.toml``."""

    broker: BrokerSettings = BrokerSettings()
    stack: StackSettings = StackSettings()
    worker: WorkerSettings = WorkerSettings()
    flower: FlowerSettings = FlowerSettings()
    models: ModelsSettings = ModelsSettings()
    gpu: GpuSettings = GpuSettings()
    realtime: RealtimeSettings = RealtimeSettings()
    cache: CacheSettings = CacheSettings()
    submissions: SubmissionSettings = SubmissionSettings()
    batch: BatchSettings = BatchSettings()
    feedback: FeedbackSettings = FeedbackSettings()
    drift: DriftSettings = DriftSettings()
    alerts: AlertSettings = AlertSettings()
    nightly: Annotated[dict[str, NightlySettings], AfterValidator(checked_apart)] = Field(
        default_factory=dict
    )
    gateway: GatewaySettings = GatewaySettings()
    moderation: ModerationSettings = ModerationSettings()
    sensors: SensorSettings = SensorSettings()
    log: LogSettings = LogSettings()

    @property
    def broker_url(self) -> str:
        """The broker in use: the configured one, or the embedded server's address."""
        url = self.broker.url or f"redis://127.0.0.1:{self.stack.redis_port}/0"
        return certificates.checked(url)

    @property
    def cache_url(self) -> str:
        """The Redis of the result cache: its own, or the broker's."""
        return certificates.checked(self.cache.url) if self.cache.url else self.broker_url
