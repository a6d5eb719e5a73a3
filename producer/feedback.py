"""Labels that come after their predictions: which prediction, and was it right?"""

from __future__ import annotations

import hashlib
import time
from dataclasses import dataclass
from typing import Any

import redis

from celeriac import errors
from celeriac.drift import feedback, prediction_ids
from celeriac.drift.feedback import Labelled
from celeriac.drift.labels import from_text, judge
from celeriac.drift.prediction_ids import Said
from celeriac.messages import DEFAULT_TENANT, Prediction, encode_item
from celeriac.registry.manifest import OutputSchema
from producer import handles
from producer.broker import Broker, broker_error
from producer.routes import Routes

KEY_HELD_S = 60.0
"""Then it is looked at again; if Redis has lost it, it is put back."""


@dataclass(frozen=True, kw_only=True)
class Feedback:
    """What became of a label."""

    prediction_id: str
    model: str
    version: int
    counted: bool
    """False: the prediction had a label already."""
    right: bool | None = None
    """Of a class: the answer was this label."""
    absolute_error: float | None = None
    """Of a number: how far the answer was from the label."""


class Feedbacks:
    """Makes ids of predictions and takes their labels. Safe with threads."""

    def __init__(self, broker: Broker, routes: Routes) -> None:
        self._broker = broker
        self._routes = routes
        self._key = b""
        self._key_seen_s = 0.0

    @property
    def is_ready(self) -> bool:
        """True if :meth:`id_of` waits for nothing."""
        return bool(self._key) and time.monotonic() - self._key_seen_s < KEY_HELD_S

    def prepare(self) -> None:
        """Have what signs ids. Raises BrokerError."""
        self._signing_key()

    def id_of(self, prediction: Prediction, tenant: str = DEFAULT_TENANT) -> str:
        """An id for a prediction that was made just now. Raises RequestError, BrokerError."""
        return prediction_ids.make(
            prediction, key=self._signing_key(), tenant=tenant, now_s=time.time()
        )

    def give(
        self, prediction_id: str, label: Any, *, timeout_s: float, tenant: str = DEFAULT_TENANT,
        is_text: bool = False,
    ) -> Feedback:
        """Count a label. ``is_text``: it comes from a file in which everything is a text.

        Raises PredictionNotFound, RequestError (a label that cannot be; no answer yet), Overloaded,
        BrokerError, and DeadlineExceeded.
        """
        said = self._said(prediction_id, tenant, timeout_s)
        output = self._output(said, timeout_s)
        value = from_text(label, said.predicted, output) if is_text else plain(label)
        judged = judge(said.predicted, value, output)
        labelled = Labelled(
            model=said.model, version=said.version, made_s=said.made_s, nonce=said.nonce,
            judged=judged,
        )
        settings = self._broker.settings.feedback
        try:
            counted = feedback.record(
                self._broker.redis, labelled, settings, now_s=time.time()
            )
        except redis.RedisError as error:
            raise broker_error(error, self._broker.url) from error
        return Feedback(
            prediction_id=prediction_id, model=said.model, version=said.version, counted=counted,
            right=judged.right, absolute_error=judged.absolute_error,
        )

    def _signing_key(self) -> bytes:
        if self.is_ready:
            return self._key
        try:
            self._key = feedback.signing_key(
                self._broker.redis, self._broker.settings.feedback, held=self._key
            )
        except redis.RedisError as error:
            raise broker_error(error, self._broker.url) from error
        self._key_seen_s = time.monotonic()
        return self._key

    def _said(self, prediction_id: str, tenant: str, timeout_s: float) -> Said:
        """What was predicted. Raises PredictionNotFound, and RequestError if nothing was."""
        if not isinstance(prediction_id, str):
            raise errors.RequestError("prediction_id: an id of a prediction is a text")
        if prediction_id.startswith(prediction_ids.PREFIX):
            said = prediction_ids.read(prediction_id, key=self._signing_key(), tenant=tenant)
        else:
            said = self._submitted(prediction_id, tenant, timeout_s)
        accepted_s = self._broker.settings.feedback.accepted_s
        if time.time() - said.made_s > accepted_s:
            raise errors.PredictionNotFound(
                f"the prediction was made more than {_days(accepted_s)} ago, and its label is "
                "taken no more ([feedback] accepted_s)"
            )
        return said

    def _submitted(self, prediction_id: str, tenant: str, timeout_s: float) -> Said:
        handle = handles.find(self._broker, prediction_id, timeout_s, tenant)
        status = handle.status()
        if status.prediction is None or status.ended_at is None:
            raise errors.RequestError(
                f"the prediction {prediction_id!r} is {status.state}: there is no answer that a "
                "label could be compared with"
            )
        made_s = status.ended_at.timestamp()
        return Said(
            status.prediction.model, status.prediction.version, int(made_s),
            hashlib.blake2b(f"{tenant}:{prediction_id}:{made_s}".encode(), digest_size=8).digest(),
            prediction_ids.predicted_of(status.prediction),
        )

    def _output(self, said: Said, timeout_s: float) -> OutputSchema:
        known = self._routes.described(f"{said.model}@{said.version}")
        if known is not None:
            return known[1].output
        model = self._routes.catalogue(timeout_s).models.get(said.model)
        if model is None or said.version not in model.versions:
            raise errors.PredictionNotFound(
                f"the prediction was made by {said.model}@{said.version}, which is not there any "
                "more"
            )
        return model.versions[said.version].output


def plain(label: Any) -> Any:
    """A label as a JSON value, also of a numpy scalar. Raises RequestError."""
    try:
        return encode_item(label)
    except errors.InvalidItem as error:
        raise errors.RequestError(f"label: {error.message}") from error


def _days(seconds: float) -> str:
    """
    >>> _days(2_592_000), _days(7_200)
    ('30 days', '2 hours')
    """
    return f"{seconds / 86_400:g} days" if seconds >= 172_800 else f"{seconds / 3_600:g} hours"
