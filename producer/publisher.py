"""Publishing: envelopes onto their queues, over one connection, by one thread at a time."""

from __future__ import annotations

import contextlib
from collections import deque
from typing import Any

import redis

from celeriac import errors
from celeriac.keys import REPLY_TTL_S, reply_key, seen_key
from celeriac.messages import gpu_role
from producer import resends, wire
from producer.broker import Broker, broker_error
from producer.calls import Call, settle_all
from producer.channel import Channel
from producer.envelopes import SentEnvelope, pack
from producer.refusals import Refusals
from producer.statistics import Counts

UNCONFIRMED = 8
"""Envelopes that were sent at once and whose LPUSH has no answer yet, at most."""
OVERDUE_MS = 500
"""Callers keep their time themselves; so long after it, those are gone that did not."""
LOOK_ENVELOPES = 256
"""Envelopes that one exchange sends once more, at most."""
WITHDRAW_ENVELOPES = 8
"""Envelopes that one exchange takes out of their queues, at most."""


class Publisher:
    """Sends envelopes and keeps them until they are claimed by their reply.

    All but :meth:`claim`, :meth:`take_all` and ``turn_times`` belong to whoever holds the
    coalescer's turn.
    """

    def __init__(
        self, broker: Broker, reply_to: str, counts: Counts, refusals: Refusals
    ) -> None:
        self._url = broker.url
        self._reply_to = reply_to
        self._counts = counts
        self._refusals = refusals
        self.turn_times = resends.TurnTimes()
        self._channel = Channel(broker.redis)
        self._sent: dict[str, SentEnvelope] = {}
        self._unconfirmed: deque[SentEnvelope] = deque()

    @property
    def busy(self) -> bool:
        """True while an envelope has no reply or its LPUSH no answer."""
        return bool(self._sent or self._unconfirmed)

    def claim(self, envelope_id: str) -> SentEnvelope | None:
        """An envelope that was answered; None if it is not known (any more)."""
        return self._sent.pop(envelope_id, None)

    def take_all(self) -> list[Call]:
        """Every call that was sent and not claimed; they are forgotten here."""
        calls = [call for sent in list(self._sent.values()) for call in sent.calls]
        self._sent.clear()
        return calls

    def can_send_at_once(self) -> bool:
        """True if :meth:`send_at_once` would not wait for Redis."""
        if not self._channel.connected:
            return False
        if len(self._unconfirmed) < UNCONFIRMED:
            return True
        try:  # where the reply has come, the LPUSH was answered long ago
            while self._unconfirmed and self._unconfirmed[0].id not in self._sent:
                self._confirm(self._unconfirmed[0], self._receive())
                self._unconfirmed.popleft()
        except BaseException as error:  # noqa: BLE001 - it goes on
            self._break_off(error)
        return len(self._unconfirmed) < UNCONFIRMED and self._channel.connected

    def send_at_once(self, call: Call) -> None:
        """Send one call and wait for nothing: its LPUSH is confirmed later.

        After an error of the connection the sender's next turn sends it once more.
        """
        (envelope,) = self._pack([call])
        try:
            self._unconfirmed.append(envelope)
            self._channel.send(("LPUSH", envelope.queue, envelope.message))
        except BaseException as error:  # noqa: BLE001 - it goes on
            self._break_off(error)

    def confirm(self) -> None:
        """Wait for the answers to what was sent at once; send again what a broken connection lost.

        Fails the calls concerned if that cannot be done.
        """
        try:
            while self._unconfirmed and self._channel.connected:
                self._confirm(self._unconfirmed[0], self._receive())
                self._unconfirmed.popleft()
        except redis.RedisError:
            self._channel.close()
        if self._unconfirmed:
            again = [envelope for envelope in self._unconfirmed if envelope.id in self._sent]
            self._unconfirmed.clear()
            self._push(again)

    def publish(self, calls: list[Call]) -> None:
        """Send calls, in one exchange; fails them if that cannot be done."""
        self._push(self._pack(calls))

    def look(self, now_ms: int) -> None:
        """Forget what is settled; look for envelopes that have no reply, and send lost ones again.

        Raises redis.RedisError.
        """
        given_up: list[SentEnvelope] = []
        for envelope_id, envelope in list(self._sent.items()):
            if envelope.deadline_ms + OVERDUE_MS < now_ms:
                self._expire(envelope)
            if envelope.settled() and self._sent.pop(envelope_id, None) is not None:
                given_up.append(envelope)
        self._withdraw([one for one in given_up if now_ms < one.deadline_ms])
        late = resends.due(list(self._sent.values()), now_ms)
        if not late:
            return
        queues = list({envelope.queue: None for envelope in late})
        oldest: dict[str, Any] = dict(
            zip(queues, self._channel.exchange(*(("LINDEX", name, -1) for name in queues)),
                strict=True)
        )  # fmt: skip
        self._refuse_unserved([one for one in late if resends.has_waited(one, now_ms)])
        left = (one for one in late if not one.settled())
        lost = [one for one in left if self._is_lost(one, oldest[one.queue], now_ms)]
        for envelope in lost[LOOK_ENVELOPES:]:
            envelope.look_ms = now_ms  # at the next look
        again = lost[:LOOK_ENVELOPES]
        if again:
            for envelope in again:
                envelope.resent = True
            self._counts.add("envelopes_resent", len(again))
            self._channel.exchange(*(("LPUSH", one.queue, one.message) for one in again))

    def close(self) -> None:
        """End, with an empty reply: it wakes the reader, which waits for the next one."""
        key = reply_key(self._reply_to)
        with contextlib.suppress(redis.RedisError):
            self._channel.exchange(("RPUSH", key, b""), ("EXPIRE", key, REPLY_TTL_S))
        self._channel.close()

    def _refuse_unserved(self, late: list[SentEnvelope]) -> None:
        """Fail what waits for a GPU, where no worker has had one for a minute.

        Workers of the CPU are a part of every installation: items for them wait for their start.
        """
        roles = {one.queue: role for one in late if (role := gpu_role(one.queue))}
        if not roles:
            return
        asked = (("EXISTS", seen_key(role), seen_key(queue)) for queue, role in roles.items())
        answers = self._channel.exchange(*asked)
        for (queue, role), seen in zip(roles.items(), answers, strict=True):
            if seen != 0:  # a worker, or an error
                continue
            error = errors.NotServed(
                f"no worker serves {role}: start one (`celeriac worker {role}`), or let the CPU "
                'stand in ([gpu] fallback = "when_absent")'
            )
            failed = [
                (call, error) for one in late if one.queue == queue for call in one.calls
            ]
            self._counts.failed(error.code, settle_all(failed))

    def _withdraw(self, given_up: list[SentEnvelope]) -> None:
        """Take envelopes that nobody waits for any more out of their queues, if they still wait.

        Redis looks through the queue for each; so of many at a time, most are left to their
        deadline.
        """
        chosen = given_up[:WITHDRAW_ENVELOPES]
        if not chosen:
            return
        removed = self._channel.exchange(
            *(("LREM", one.queue, -1, one.message) for one in chosen)
        )
        number = sum(one for one in removed if isinstance(one, int))
        if number:
            self._counts.add("envelopes_withdrawn", number)

    def _is_lost(self, envelope: SentEnvelope, oldest: Any, now_ms: int) -> bool:
        """``oldest``: the oldest message of its queue, None, or an error."""
        if isinstance(oldest, redis.RedisError) or envelope.id not in self._sent:
            return False
        if resends.still_waits(envelope.sent_ms, oldest):
            envelope.gone_ms = 0  # a worker that stopped has given it back, perhaps
            return False
        turn_ms = self.turn_times.longest_ms(envelope.queue)
        return resends.is_lost(envelope, now_ms, turn_ms)

    def _pack(self, calls: list[Call]) -> list[SentEnvelope]:
        now_ms = wire.now_ms()
        envelopes = [
            SentEnvelope(members, self._reply_to, now_ms) for members in pack(calls, now_ms)
        ]
        self._sent.update({envelope.id: envelope for envelope in envelopes})  # before any reply
        self._counts.add("items_sent", len(calls))
        self._counts.add("envelopes_sent", len(envelopes))
        return envelopes

    def _push(self, envelopes: list[SentEnvelope]) -> None:
        if not envelopes:
            return
        try:
            answers = self._channel.exchange(
                *(("LPUSH", envelope.queue, envelope.message) for envelope in envelopes)
            )
        except redis.RedisError as error:
            for envelope in envelopes:
                self._fail(envelope, error)
            return
        for envelope, answer in zip(envelopes, answers, strict=True):
            self._confirm(envelope, answer)

    def _break_off(self, error: BaseException) -> None:
        """After an interrupt, too (a caller's time limit, say), nobody knows which answer is whose.

        Raises what is no error of Redis.
        """
        self._channel.close()
        if not isinstance(error, redis.RedisError):
            raise error

    def _receive(self) -> Any:
        try:
            return self._channel.receive()
        except redis.ResponseError as error:
            if isinstance(error, redis.exceptions.ReadOnlyError):
                raise redis.ConnectionError(str(error)) from error  # so it is sent once more
            return error

    def _confirm(self, envelope: SentEnvelope, answer: Any) -> None:
        """Take the answer to an LPUSH: the length of the queue, or an error."""
        if isinstance(answer, Exception):
            self._fail(envelope, answer)
        else:
            self._refusals.queue_length(envelope.queue, int(answer))

    def _expire(self, envelope: SentEnvelope) -> None:
        expired = [
            (call, errors.DeadlineExceeded(f"no answer from model {call.model!r}"))
            for call in envelope.calls
        ]
        self._counts.add("expired", settle_all(expired))

    def _fail(self, envelope: SentEnvelope, error: Exception) -> None:
        self._sent.pop(envelope.id, None)
        failed = [(call, broker_error(error, self._url)) for call in envelope.calls]
        self._counts.failed(errors.BrokerError.code, settle_all(failed))
