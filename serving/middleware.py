"""ASGI middleware: each request is counted and timed, its Host is checked, and its body is limited
in size and time."""

from __future__ import annotations

import asyncio
import contextlib
import ipaddress
import re
import time

from fastapi import HTTPException
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from .batching import Unavailable
from .endpoints import ENDPOINT_PATHS, MODEL_ENDPOINTS
from .pages import ASSETS
from .problems import refusal, shortened
from .service import Limits, Service

DRAIN_SECONDS = 0.5
"""How long the rest of a body is read after its answer is known."""


def with_metrics_and_limits(app: ASGIApp, limits: Limits, local: bool) -> ASGIApp:
    """The application `app` with metrics, a check of the Host header if `local`, and limited
    request bodies."""

    async def middleware(scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await app(scope, receive, send)
            return
        service: Service = scope["app"].state.service
        endpoint = endpoint_of(scope["path"])
        started_at, status, is_model_endpoint = (
            time.monotonic(),
            500,
            scope["path"] in MODEL_ENDPOINTS,
        )
        scope.setdefault("state", {}).update(
            started_at=started_at, after_stop=service.stopping.is_set()
        )
        body = Body(scope, receive, service, started_at)

        async def send_and_drain(message: Message) -> None:
            nonlocal status
            if message["type"] == "http.response.start":
                status = message["status"]
                if not body.complete:
                    await body.drain()
                    message = {
                        **message,
                        "headers": [*message.get("headers", ()), (b"connection", b"close")],
                    }
            await send(message)

        foreign_hosts = [host for host in headers(scope, b"host") if local and not is_local(host)]
        service.running += is_model_endpoint
        try:
            if foreign_hosts:
                got = shortened(foreign_hosts[0])
                detail = (
                    f"Host: must be localhost or an address, got {got}; "
                    "let the proxy send the address that it calls"
                )
                await refusal(421, detail)(scope, receive, send_and_drain)
            else:
                await app(scope, body.receive, send_and_drain)
        finally:
            service.running -= is_model_endpoint
            service.metrics.requests.labels(endpoint, str(status)).inc()
            service.metrics.seconds.labels(endpoint).observe(time.monotonic() - started_at)

    return middleware


def endpoint_of(path: str) -> str:
    """The name under which requests for a path are counted."""
    if path in ENDPOINT_PATHS:
        return path[1:] or "page"
    return "page" if path.removeprefix("/page/") in ASSETS else "other"


class Body:
    """A request body limited in size and time. An answer before the end of the body closes the
    connection."""

    def __init__(self, scope: Scope, receive: Receive, service: Service, started_at: float) -> None:
        self.inner, self.service, self.started_at = receive, service, started_at
        self.max_bytes = service.limits.max_body_bytes
        lengths = headers(scope, b"content-length")
        self.declared_bytes = int(lengths[0]) if lengths else 0
        self.received_bytes = 0
        self.complete = not self.declared_bytes and not headers(scope, b"transfer-encoding")
        """True when the whole body has arrived."""
        self.expects_continue = bool(headers(scope, b"expect"))

    async def receive(self) -> Message:
        """The next ASGI message; raises an error if the body is too large or too slow."""
        if self.complete:
            return await self.inner()
        if self.declared_bytes <= self.max_bytes:
            seconds = self.service.limits.deadline
            late = HTTPException(
                408, f"body: did not arrive in {seconds:g} seconds; send it faster"
            )
            try:
                async with self.service.time_out(self.started_at + seconds, late):
                    message = await self._next()
            except Unavailable as error:
                # FastAPI would report any other exception as invalid JSON.
                raise HTTPException(503, str(error)) from None
        if max(self.declared_bytes, self.received_bytes) > self.max_bytes:
            raise HTTPException(
                413,
                f"body: must have at most {self.max_bytes:,} bytes; send it in several requests",
            )
        return message

    async def drain(self) -> None:
        """Read on for a moment, up to a limit, so that a client which sends all before it reads
        gets the answer."""
        last = self.received_bytes + self.max_bytes
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(0.0 if self.expects_continue else DRAIN_SECONDS):
                while not self.complete and self.received_bytes <= last:
                    await self._next()

    async def _next(self) -> Message:
        message = await self.inner()
        self.received_bytes += len(message.get("body", b""))
        self.complete = not message.get("more_body", False)
        return message


def headers(scope: Scope, name: bytes) -> list[str]:
    """The values of a header of a request."""
    return [value.decode("latin-1") for key, value in scope["headers"] if key == name]


HOST = re.compile(
    r"(?:\[(?P<six>[0-9A-Fa-f:.]+)\]|(?P<name>[0-9A-Za-z.-]+))(?::[0-9]{0,5})?", re.ASCII
)
"""`uri-host [ ":" port ]` of RFC 9110, limited to names and addresses of this machine."""


def is_local(host: str) -> bool:
    """True if a Host header is localhost, an IP address or empty."""
    parts = HOST.fullmatch(host)
    if not parts:
        return host == ""
    name = parts["six"] or parts["name"].removesuffix(".").lower()
    try:
        return name == "localhost" or ipaddress.ip_address(name).version == (
            6 if parts["six"] else 4
        )
    except ValueError:
        return False
