"""Connections limited in number and time; uvicorn itself waits for a request head without limit.

A connection that waits too long for its first or its next request head is closed. When too many are
open, the one that has waited longest is closed in favour of a new one.
"""

from __future__ import annotations

import asyncio
from typing import Any

from uvicorn.protocols.http.h11_impl import H11Protocol

try:
    import resource
except ImportError:  # not on Windows
    resource = None  # type: ignore[assignment]

ACCEPTED_AT_ONCE = 8
"""Backlog given to uvicorn: asyncio accepts that many connections at once, before any can be
refused."""

RESERVED_FILES = 64
"""Open files kept for other uses than connections: graphs, pipes, and connections not counted
yet."""

FLUSH_SECONDS = 30.0
"""Seconds that a closed connection may take to send the rest of its answer."""

TOO_MANY_CONNECTIONS = (
    b"HTTP/1.1 503 Service Unavailable\r\n"
    b"Connection: close\r\nRetry-After: 1\r\nContent-Length: 0\r\n\r\n"
)


def connection_limit(requested: int) -> int:
    """The number of connections to allow: `requested`, or fewer if the limit of open files is
    lower."""
    if resource is None:
        return requested
    files = resource.getrlimit(resource.RLIMIT_NOFILE)[0]
    return (
        requested
        if files == resource.RLIM_INFINITY
        else max(1, min(requested, files - RESERVED_FILES))
    )


class Connection(H11Protocol):
    """One of at most `max_connections` connections; each request head must arrive within
    `head_seconds`."""

    def __init__(
        self, *arguments: Any, max_connections: int, head_seconds: float, **named: Any
    ) -> None:
        super().__init__(*arguments, **named)
        self.max_connections, self.head_seconds = max_connections, head_seconds
        self.waiting_since: float | None = None
        """Time since which the connection waits for a request head; None while a request is
        answered."""
        self.head_timer: asyncio.TimerHandle | None = None

    def connection_made(self, transport: Any) -> None:
        super().connection_made(transport)
        self.update_head_timer()
        if len(self.connections) > self.max_connections:
            self.make_room()

    def data_received(self, data: bytes) -> None:
        super().data_received(data)
        self.update_head_timer()

    def on_response_complete(self) -> None:
        super().on_response_complete()
        self.update_head_timer()

    def connection_lost(self, exc: Exception | None) -> None:
        super().connection_lost(exc)
        if self.head_timer:
            self.head_timer.cancel()

    def update_head_timer(self) -> None:
        """Start the timer of the next request head after an answer; stop it when the head has
        arrived."""
        waits = self.cycle is None or self.cycle.response_complete
        if waits and self.waiting_since is None:
            self.waiting_since = self.loop.time()
            self.head_timer = self.loop.call_later(self.head_seconds, self.end)
        elif not waits and self.head_timer:
            self.waiting_since = None
            self.head_timer.cancel()

    def make_room(self) -> None:
        """Close the connection that has waited longest for a head; if all are busy, refuse this
        one."""
        others = [
            other
            for other in self.connections
            if isinstance(other, Connection) and other is not self
        ]
        waiting = {
            other.waiting_since: other for other in others if other.waiting_since is not None
        }
        if waiting:
            oldest = waiting[min(waiting)]
            self.connections.discard(oldest)
            oldest.transport.abort()
        else:
            self.transport.write(TOO_MANY_CONNECTIONS)
            self.end()

    def end(self) -> None:
        """Close the connection, and abort it later if the client does not read the rest of the
        answer."""
        self.transport.close()
        self.loop.call_later(FLUSH_SECONDS, self.transport.abort)
