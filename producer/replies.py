"""The reply reader: one thread that pops this client's reply list and settles its calls."""

from __future__ import annotations

import contextlib
import logging
import threading
from collections.abc import Iterator, Sequence

import msgspec
import redis

from celeriac import errors
from celeriac.keys import reply_key
from celeriac.messages import Prediction, Reply
from producer.broker import Broker
from producer.calls import Call, Outcome, settle_all
from producer.channel import Channel
from producer.publisher import Publisher
from producer.refusals import Refusals
from producer.results import read_answer
from producer.statistics import Counts

log = logging.getLogger(__name__)

POP_REPLIES = 100
"""Replies that one exchange with Redis fetches, at most."""
POP_WAIT_S = 1.0
FIRST_RETRY_S, LONGEST_RETRY_S = 0.05, 1.0


class Predictions(msgspec.Struct):
    """A reply that has a prediction for every item: the usual one, decoded in one go."""

    id: str
    answers: list[Prediction]
    queue_ms: float = 0.0
    compute_ms: float = 0.0
    batch_items: int = 0


_decode = msgspec.json.Decoder(Reply).decode
_decode_predictions = msgspec.json.Decoder(Predictions).decode


class ReplyReader:
    """Reads the replies to the envelopes of one publisher."""

    def __init__(
        self, broker: Broker, client_id: str, publisher: Publisher, refusals: Refusals,
        counts: Counts,
    ) -> None:
        self._channel = Channel(broker.redis)
        self._key = reply_key(client_id)
        self._publisher = publisher
        self._refusals = refusals
        self._counts = counts
        self._stopping = threading.Event()
        self._thread = threading.Thread(target=self._run, name="celeriac-read", daemon=True)

    def start(self) -> None:
        self._thread.start()

    def stop(self) -> None:
        """Read no more once the empty reply has come with which the publisher ends, or none does.
        Does not wait."""
        self._stopping.set()

    def join(self, timeout_s: float) -> None:
        if self._thread is not threading.current_thread():
            self._thread.join(timeout_s)

    def _run(self) -> None:
        retry_s = FIRST_RETRY_S
        going_on = True
        while going_on:
            try:
                replies = self._pop()
                retry_s = FIRST_RETRY_S
                going_on = bool(replies and all(replies)) or not self._stopping.is_set()
                settle_all(self._outcomes(replies))
            except redis.RedisError as error:
                log.debug("reply list lost, again in %g s: %s", retry_s, error)
                self._channel.close()
                going_on = not self._stopping.wait(retry_s)
                retry_s = min(retry_s * 2, LONGEST_RETRY_S)
            except Exception:  # the thread must outlive any one reply
                log.exception("a reply could not be handled")
                going_on = not self._stopping.is_set()
        self._leave()

    def _pop(self) -> list[bytes]:
        popped = self._channel.ask(
            "BLMPOP", POP_WAIT_S, 1, self._key, "LEFT", "COUNT", POP_REPLIES
        )
        replies: list[bytes] = popped[1] if popped else []
        return replies

    def _leave(self) -> None:
        if self._channel.connected:  # else others' replies expire
            with contextlib.suppress(redis.RedisError):
                self._channel.once(("DEL", self._key))
        self._channel.close()

    def _outcomes(self, replies: list[bytes]) -> Iterator[tuple[Call, Outcome]]:
        for raw in replies:
            if not raw:
                continue
            try:
                yield from self._read(raw)
            except (msgspec.MsgspecError, UnicodeError, RecursionError) as error:
                log.warning("a reply could not be read: %s", error)

    def _read(self, raw: bytes) -> Iterator[tuple[Call, Outcome]]:
        reply = read_reply(raw)
        envelope = self._publisher.claim(reply.id)
        if envelope is None:
            return
        self._publisher.turn_times.observe(envelope.queue, reply.compute_ms)
        found = outcomes(reply, len(envelope.calls))
        if found is reply.answers:
            self._counts.add("answered", len(found))
            self._refusals.answered(envelope.queue, len(found))
        else:
            for outcome in found:
                self._count(envelope.queue, outcome)
        for call, outcome in zip(envelope.calls, found, strict=True):
            call.reply = reply
            yield call, outcome

    def _count(self, queue: str, outcome: Outcome) -> None:
        if isinstance(outcome, Prediction):
            self._counts.add("answered")
        else:
            self._counts.failed(outcome.code)
        if isinstance(outcome, errors.Overloaded):
            self._refusals.overloaded(queue, outcome)
        else:  # an item's own error shows as well that there is room again
            self._refusals.answered(queue, 1)


def read_reply(raw: bytes) -> Reply | Predictions:
    """Decode a reply. Raises msgspec.MsgspecError if it is none."""
    if b'"error"' not in raw:  # every error has this key
        try:
            return _decode_predictions(raw)
        except msgspec.ValidationError:
            pass  # then it is told what is wrong with which answer
    return _decode(raw)


def outcomes(reply: Reply | Predictions, wanted: int) -> Sequence[Outcome]:
    """What a reply says of each of the ``wanted`` items of its envelope."""
    if isinstance(reply, Reply) and reply.error is not None:
        # One for each: an exception's traceback belongs to one caller.
        return [errors.from_wire(reply.error) for _ in range(wanted)]
    answers = reply.answers or ()
    if len(answers) != wanted:
        return [
            errors.WorkerError(f"the worker gave {len(answers)} answers to {wanted} items")
            for _ in range(wanted)
        ]
    if isinstance(reply, Predictions):
        return reply.answers
    return [read_answer(answer) for answer in answers]
