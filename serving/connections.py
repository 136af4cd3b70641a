"""Connections that are bounded in number and time: uvicorn's own wait for the head of a request without end.

A connection that waits for a head, its first or its next, is ended after some seconds; where too many are open, the one that
has waited longest makes room for a new one.
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
"""asyncio accepts as many connections in one go as uvicorn's backlog says, before any of them can be refused."""

RESERVED_FILES = 64
"""Open files that are not for connections: the graphs, the pipes, and what is accepted before it is counted."""

FLUSH_SECONDS = 30.0
"""How long a closed connection may take to send what is left of its answer."""

FULL = b"HTTP/1.1 503 Service Unavailable\r\nConnection: close\r\nRetry-After: 1\r\nContent-Length: 0\r\n\r\n"


def most_connections(wanted: int) -> int:
    """So many connections, or what the limit of open files has room for."""
    if resource is None:
        return wanted
    files = resource.getrlimit(resource.RLIMIT_NOFILE)[0]
    return (
        wanted if files == resource.RLIM_INFINITY else max(1, min(wanted, files - RESERVED_FILES))
    )


class Connection(H11Protocol):
    """One connection of at most `most`; each head has to arrive within `head_seconds`."""

    def __init__(self, *arguments: Any, most: int, head_seconds: float, **named: Any) -> None:
        super().__init__(*arguments, **named)
        self.most, self.head_seconds = most, head_seconds
        self.waiting_since: float | None = None
        """Since when a head is waited for; None while a request is answered."""
        self.head_timer: asyncio.TimerHandle | None = None

    def connection_made(self, transport: Any) -> None:
        super().connection_made(transport)
        self.look()
        if len(self.connections) > self.most:
            self.make_room()

    def data_received(self, data: bytes) -> None:
        super().data_received(data)
        self.look()

    def on_response_complete(self) -> None:
        super().on_response_complete()
        self.look()

    def connection_lost(self, exc: Exception | None) -> None:
        super().connection_lost(exc)
        if self.head_timer:
            self.head_timer.cancel()

    def look(self) -> None:
        """Begin to wait for a head after an answer, and stop waiting when it is there."""
        waits = self.cycle is None or self.cycle.response_complete
        if waits and self.waiting_since is None:
            self.waiting_since = self.loop.time()
            self.head_timer = self.loop.call_later(self.head_seconds, self.end)
        elif not waits and self.head_timer:
            self.waiting_since = None
            self.head_timer.cancel()

    def make_room(self) -> None:
        """End the connection that has waited longest for a head; where all are at work, refuse this one."""
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
            self.transport.write(FULL)
            self.end()

    def end(self) -> None:
        """Close, also where the client does not read what is left."""
        self.transport.close()
        self.loop.call_later(FLUSH_SECONDS, self.transport.abort)
