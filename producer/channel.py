"""One connection to Redis of its own: commands out, answers in, in the order of the commands.

redis-py's pool and pipeline cost more than the exchange itself. A channel uses redis-py's own
connection (with its TLS, login and parser), and belongs to one thread at a time.
"""

from __future__ import annotations

import contextlib
from typing import Any

import redis

from producer.broker import Broker


class Channel:
    """A connection that is made at first use, and again after it was lost."""

    def __init__(self, broker: Broker) -> None:
        self._broker = broker
        self._connection: Any = None

    @property
    def connected(self) -> bool:
        return self._connection is not None and self._connection.is_connected

    def send(self, *commands: tuple[Any, ...]) -> None:
        """Send commands; their answers are to be received later. Raises redis.RedisError."""
        if self._connection is None:
            self._connection = self._broker.redis.connection_pool.make_connection()
        connection = self._connection
        packed = (
            connection.pack_command(*commands[0]) if len(commands) == 1
            else connection.pack_commands(commands)
        )  # fmt: skip
        connection.send_packed_command(packed, check_health=False)

    def receive(self) -> Any:
        """The next answer; an error answer is raised. Raises redis.RedisError."""
        return self._connection.read_response()

    def exchange(self, *commands: tuple[Any, ...]) -> list[Any]:
        """Send commands and receive their answers; an error answer stands in its place.

        A connection that was lost is made once more, and the commands sent once more: they must
        bear to be done twice. Raises redis.RedisError.
        """
        try:
            return self._once(commands)
        except redis.TimeoutError:
            self.close()
            raise
        except redis.ConnectionError:
            self.close()
            return self._once(commands)

    def ask(self, *command: Any) -> Any:
        """The answer to one command, as :meth:`exchange`; an error answer is raised."""
        (answer,) = self.exchange(command)
        if isinstance(answer, redis.RedisError):
            raise answer
        return answer

    def close(self) -> None:
        """Close the connection; the next use makes a new one."""
        connection, self._connection = self._connection, None
        if connection is not None:
            with contextlib.suppress(redis.RedisError, OSError):
                connection.disconnect()

    def _once(self, commands: tuple[tuple[Any, ...], ...]) -> list[Any]:
        self.send(*commands)
        return [self._answer() for _ in commands]

    def _answer(self) -> Any:
        try:
            return self.receive()
        except redis.ResponseError as error:
            return error
