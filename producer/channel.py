"""One connection to Redis of its own: commands out, answers in, in the order of the commands.

It leaves a server that has become a replica: the server's name may be another's by now.

redis-py's pool and pipeline cost more than the exchange itself. A channel uses redis-py's own
connection (with its TLS, login and parser), and belongs to one thread at a time.
"""

from __future__ import annotations

import contextlib
from typing import Any

import redis

Command = tuple[Any, ...]


class Channel:
    """A connection that is opened at first use, and again after it was lost."""

    def __init__(self, client: redis.Redis) -> None:
        # Made once: the pool counts what it makes, and makes no more than its limit.
        self._connection: Any = client.connection_pool.make_connection()
        self._is_replica = False

    @property
    def connected(self) -> bool:
        return bool(self._connection.is_connected)

    def send(self, *commands: Command) -> None:
        """Send commands; their answers are to be received later. Raises redis.RedisError."""
        connection = self._connection
        packed = (
            connection.pack_command(*commands[0]) if len(commands) == 1
            else connection.pack_commands(commands)
        )  # fmt: skip
        connection.send_packed_command(packed, check_health=False)

    def receive(self) -> Any:
        """The next answer; an error answer is raised. Raises redis.RedisError."""
        return self._connection.read_response()

    def once(self, *commands: Command) -> list[Any]:
        """Send commands and receive their answers; an error answer stands in its place.

        Raises redis.RedisError if the connection is lost: then nothing is known of any of them.
        """
        try:
            self.send(*commands)
            answers = [self._answer() for _ in commands]
        except BaseException:  # what comes next would be read as another command's answer
            self.close()
            raise
        if self._is_replica:
            self.close()
        return answers

    def exchange(self, *commands: Command) -> list[Any]:
        """As :meth:`once`; where the connection was lost, or led to a replica, all is sent once
        more.

        So the commands must bear to be done twice.
        """
        try:
            answers = self.once(*commands)
        except redis.TimeoutError:
            raise
        except redis.ConnectionError:
            return self.once(*commands)
        return answers if self.connected else self.once(*commands)

    def ask(self, *command: Any) -> Any:
        """The answer to one command, as :meth:`exchange`; an error answer is raised."""
        (answer,) = self.exchange(command)
        if isinstance(answer, redis.RedisError):
            raise answer
        return answer

    def close(self) -> None:
        """Close the connection; the next use opens it again."""
        self._is_replica = False
        with contextlib.suppress(redis.RedisError, OSError):
            self._connection.disconnect()

    def _answer(self) -> Any:
        try:
            return self.receive()
        except redis.ResponseError as error:
            self._is_replica |= isinstance(error, redis.exceptions.ReadOnlyError)
            return error
