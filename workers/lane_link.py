"""The lane's own connection to Redis: many commands in one exchange, at little cost.

A pipeline of redis-py takes a connection from a pool, checks it, counts it and gives it back: as
much work as the exchange itself when a single item is answered. The lane has one thread and keeps
one connection.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import redis

Command = tuple[Any, ...]


class Link:
    """One connection, for one thread. It is made at first use, and again after a failure."""

    def __init__(self, client: redis.Redis) -> None:
        self._pool = client.connection_pool
        self._connection: Any = None

    def exchange(self, commands: Sequence[Command]) -> list[Any]:
        """Send all ``commands``, then read all results; a refused command's result is its error.

        Raises redis.RedisError if the connection is lost: then nothing is known of any of them.
        """
        if self._connection is None:
            self._connection = self._pool.get_connection()
        connection = self._connection
        try:
            connection.send_packed_command(connection.pack_commands(commands))
            return [_read(connection) for _ in commands]
        except BaseException:
            self.close()
            raise

    def close(self) -> None:
        """Give the connection up."""
        connection, self._connection = self._connection, None
        if connection is not None:
            connection.disconnect()
            self._pool.release(connection)


def _read(connection: Any) -> Any:
    try:
        return connection.read_response()
    except redis.ResponseError as error:
        return error
