"""Around every request: it is counted and timed, its host is looked at, and its body is limited in size and time."""

from __future__ import annotations

import asyncio
import contextlib
import ipaddress
import re
import time
from typing import Any

from fastapi import HTTPException

from .batching import Unavailable
from .endpoints import ENDPOINT_NAMES, MODEL_ENDPOINTS
from .problems import refusal, shortened
from .service import Limits, Service

DRAIN_SECONDS = 0.5
"""How long a body is read on whose answer is known already."""


def watched(app: Any, limits: Limits, local: bool) -> Any:
    """ASGI around `app`: requests are counted and timed, and their bodies limited in size and time."""

    async def around(scope: Any, receive: Any, send: Any) -> None:
        if scope["type"] != "http":
            await app(scope, receive, send)
            return
        service: Service = scope["app"].state.service
        endpoint = scope["path"][1:] or "page" if scope["path"] in ENDPOINT_NAMES else "other"
        began, status, works = time.monotonic(), 500, scope["path"] in MODEL_ENDPOINTS
        scope.setdefault("state", {}).update(began=began, late=service.stopping.is_set())
        body = Body(scope, receive, service, began)

        async def telling(message: Any) -> None:
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

        strange = [host for host in headers(scope, b"host") if local and not is_local(host)]
        service.running += works
        try:
            if strange:
                got = shortened(strange[0])
                detail = f"Host: must be localhost or an address, got {got}; a proxy has to send where it calls"
                await refusal(421, detail)(scope, receive, telling)
            else:
                await app(scope, body.receive, telling)
        finally:
            service.running -= works
            service.metrics.requests.labels(endpoint, str(status)).inc()
            service.metrics.seconds.labels(endpoint).observe(time.monotonic() - began)

    return around


class Body:
    """A request's body, limited in size and time: an answer that comes before its end closes the connection."""

    def __init__(self, scope: Any, receive: Any, service: Service, began: float) -> None:
        self.inner, self.service, self.began = receive, service, began
        self.most = service.limits.max_body_bytes
        lengths = headers(scope, b"content-length")
        self.declared = int(lengths[0]) if lengths else 0
        self.taken = 0
        self.complete = not self.declared and not headers(scope, b"transfer-encoding")
        """Whether nothing of it is to come."""
        self.asked_first = bool(headers(scope, b"expect"))

    async def receive(self) -> Any:
        """The next message; raises where the body is too large, or takes too long to arrive."""
        if self.complete:
            return await self.inner()
        if self.declared <= self.most:
            seconds = self.service.limits.deadline
            late = HTTPException(
                408, f"body: did not arrive in {seconds:g} seconds; send it faster"
            )
            try:
                async with self.service.until(self.began + seconds, late):
                    message = await self._next()
            except (
                Unavailable
            ) as error:  # FastAPI takes other errors of a body for those of its JSON
                raise HTTPException(503, str(error)) from None
        if max(self.declared, self.taken) > self.most:
            raise HTTPException(
                413, f"body: must have at most {self.most:,} bytes; send it in several requests"
            )
        return message

    async def drain(self) -> None:
        """Read on for a moment, so that a client which sends all before it reads gets the answer; never without end."""
        most = self.taken + self.most
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(0.0 if self.asked_first else DRAIN_SECONDS):
                while not self.complete and self.taken <= most:
                    await self._next()

    async def _next(self) -> Any:
        message = await self.inner()
        self.taken += len(message.get("body", b""))
        self.complete = not message.get("more_body", False)
        return message


def headers(scope: Any, name: bytes) -> list[str]:
    """The values of a header of a request."""
    return [value.decode("latin-1") for key, value in scope["headers"] if key == name]


HOST = re.compile(
    r"(?:\[(?P<six>[0-9A-Fa-f:.]+)\]|(?P<name>[0-9A-Za-z.-]+))(?::[0-9]{0,5})?", re.ASCII
)
"""`uri-host [ ":" port ]` of RFC 9110, as far as names and addresses of this machine go."""


def is_local(host: str) -> bool:
    """Whether a Host header names no domain but localhost: that name, an IP address, or nothing."""
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
