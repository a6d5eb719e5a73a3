"""Sensors through a client: what answers a reading, and what is known."""

from __future__ import annotations

import re
import time
from collections.abc import Sequence
from typing import Any

import numpy as np

from celeriac import errors
from celeriac.applications.sensors import readings as incoming
from celeriac.applications.sensors.readings import Readings
from celeriac.messages import DEFAULT_TENANT, ModelRef
from producer.applications.sensors import answers
from producer.applications.sensors.answers import Outcome
from producer.applications.sensors.book import SensorBook
from producer.applications.sensors.scoring import items_of, scores_of
from producer.applications.sensors.views import SensorViews
from producer.client import Client

_TENANT = re.compile(r"[a-z0-9][a-z0-9_-]{0,62}")
"""As in the settings of keys. A ':' would end the tenant's part of a key in Redis."""


class Sensors(SensorViews):
    """The sensors of one tenant. Safe with threads.

    A reading is judged and kept before its answer comes, so one without an answer may be sent
    again: it counts once. Every method may raise BrokerError.
    """

    def __init__(self, client: Client, tenant: str = DEFAULT_TENANT) -> None:
        """Raises RequestError if no tenant can have this name."""
        if not _TENANT.fullmatch(tenant):
            raise errors.RequestError(
                f"{tenant[:60]!r} is no tenant's name: use small letters, digits, '_' and '-', at "
                "most 63, beginning with a letter or a digit"
            )
        super().__init__(client.broker, tenant)
        self._client = client
        self._settings = client.settings.sensors
        self._book = SensorBook(client.broker, tenant)

    def ingest(
        self, readings: Sequence[Any], *, model: str | None = None, threshold: float | None = None
    ) -> list[Outcome]:
        """An answer or an error for each of ``[{"sensor", "at", "value" or "values"}, ...]``.

        ``at`` is Unix seconds, a datetime, or a text of ISO 8601 with its offset; without it, now.
        Without ``model``, the robust detector judges a reading beside those of its sensor before
        it. A model (one that answers with a number, the higher the stranger) judges its values
        alone; then ``threshold`` is of its scores, by default the version's own metric
        ``anomaly_threshold``. Raises PayloadTooLarge and what ``Client.predict`` raises; errors of
        single readings are among the answers.
        """
        if len(readings) > self._settings.max_readings:
            raise answers.too_many(len(readings), self._settings.max_readings)
        found = incoming.parse(readings, time.time(), self._settings.max_ahead_s)
        return self._take(found, model, threshold)

    def ingest_columns(
        self, sensors: Sequence[str], at: Any, values: Any, *, model: str | None = None,
        threshold: float | None = None,
    ) -> list[Outcome]:
        """The same of columns, which is faster: names, Unix seconds, and numbers ``(readings,)`` or
        ``(readings, channels)``. Raises RequestError if they are not of one length."""
        found = incoming.from_columns(
            sensors, at, values, now_s=time.time(), max_ahead_s=self._settings.max_ahead_s
        )
        return self._take(found, model, threshold)

    def _take(
        self, readings: Readings, model: str | None, threshold: float | None
    ) -> list[Outcome]:
        threshold = check_threshold(threshold)
        if model is None:
            return self._book.take(readings, threshold)
        if threshold is None:
            catalogue = self._client.realtime.routes.catalogue(self._client.timeout_s)
            version = catalogue.resolve(ModelRef.parse(model))
            threshold = answers.threshold_of(version.metrics, model)
        answers.check_count(readings, self._settings.max_readings)
        places, items = items_of(readings)
        outcomes = self._client.predict_many(model, items, return_errors=True)
        scores = scores_of(readings, places, outcomes, model)
        return self._book.take(readings, threshold, scores)


def check_threshold(threshold: float | None) -> float | None:
    """``threshold`` itself. Raises RequestError if it is no number above 0."""
    if threshold is not None and not 0 < threshold < np.inf:
        raise errors.RequestError(f"threshold is a number above 0, not {threshold!r}")
    return threshold
