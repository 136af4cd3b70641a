"""`kvae serve`: a bundle as a web service, with limits on all that a request may cost.

Each request gets a fair share of the model by what it costs, and those that may share a batch do, with the answers that each
would get alone (`batching`, `shares`). Connections are bounded in number and time (`connections`). Every error is a problem
of one sentence (RFC 9457).
"""

from __future__ import annotations

import asyncio
import contextlib
import ipaddress
import socket
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from types import FrameType
from typing import Any

import uvicorn
from fastapi import FastAPI, Response
from fastapi.exceptions import RequestValidationError
from starlette.exceptions import HTTPException as AnyHTTPException

from . import ConfigError, KvaeError, Sampler, schemas
from .bundle import ENDPOINTS
from .checks import whole
from .connections import ACCEPTED_AT_ONCE, Connection, most_connections
from .endpoints import MODEL_ENDPOINTS, MODEL_PROBLEMS, STATE_ENDPOINTS, Handler, page
from .middleware import watched
from .openapi import EVENT, content_of, described, problems
from .problems import Answer, of_anything, of_http, of_kvae, of_nobody, of_validation
from .service import ClientLeft, Limits, Service, measured
from .shares import Speed

WAITING_CONNECTIONS = 2048
"""Connections that the system holds until they are accepted."""


def application(
    load: Callable[[], Sampler],
    limits: Limits | None = None,
    local: bool = False,
    measure: Callable[[Sampler], Mapping[str, Speed]] | None = None,
) -> FastAPI:
    """The web application (ASGI) of the model that `load` starts; `state.service` is what it shares.

    `measure` says how fast the model is before requests are taken; without it that is learned from the first.
    `local` refuses requests that name a host by another name than localhost: a page from elsewhere whose name was made to
    point at this machine would otherwise read what the model says.
    """
    limits = limits or Limits()
    service = Service(load, limits, measure)
    app = FastAPI(title="kvae", lifespan=lambda _: service.at_work(), docs_url=None, redoc_url=None)
    app.state.service = service
    stream = content_of("text/event-stream", "events, each with JSON as data", EVENT)
    text = content_of("text/plain", "Prometheus' text format", {"type": "string"})
    for path, (handler, model) in MODEL_ENDPOINTS.items():
        register(app.post, path, handler, model, stream, MODEL_PROBLEMS)
    for path, (handler, model, statuses) in STATE_ENDPOINTS.items():
        register(app.get, path, handler, model, text, statuses)
    for path in ("/", "/docs"):
        app.get(path, include_in_schema=False)(page)
    app.openapi = partial(described, app, limits)  # type: ignore[method-assign]
    app.add_middleware(watched, limits=limits, local=local)
    app.add_exception_handler(KvaeError, of_kvae)  # type: ignore[arg-type]
    app.add_exception_handler(RequestValidationError, of_validation)  # type: ignore[arg-type]
    app.add_exception_handler(AnyHTTPException, of_http)  # type: ignore[arg-type]
    app.add_exception_handler(ClientLeft, of_nobody)
    app.add_exception_handler(Exception, of_anything)
    return app


def register(
    method: Callable[..., Any],
    path: str,
    handler: Handler,
    model: type[schemas.BaseModel] | None,
    otherwise: Mapping[str, Any],
    statuses: Sequence[int],
) -> None:
    """An endpoint that answers with `model`, or, where that is None, with what `otherwise` describes."""
    method(
        path,
        response_class=Response if model is None else Answer,
        responses=({} if model else {200: otherwise}) | problems(statuses),
        operation_id=path[1:],
        response_model=model,
    )(handler)


class Server(uvicorn.Server):
    """A server that is told to stop by a signal, not stopped: a second one is told on too."""

    def __init__(self, config: uvicorn.Config, stop: Callable[[], Any]) -> None:
        super().__init__(config)
        self.stop = stop

    def handle_exit(self, sig: int, frame: FrameType | None) -> None:
        """Called by a signal, between two steps of the event loop."""
        self.stop()


def serve(
    path: str,
    host: str,
    port: int,
    limits: Limits,
    say: Callable[[str], None],
    started: Callable[[str, str], None],
    threads: int | None = None,
) -> None:
    """Serve the bundle at `path` until a signal; then finish what runs and return.

    `started(url, model_id)` is called once the graphs run. Raises `ConfigError` for an address that cannot be had and
    `BundleError` for a bundle that cannot be used.
    """
    listening = bound(host, port)
    open_to_others = reaches_others(listening.getsockname()[0])
    if open_to_others:
        say(
            f"--host {host}: whoever reaches this machine can use the model, without password or encryption"
        )
    with contextlib.closing(listening):
        load = partial(Sampler.load, path, threads, ENDPOINTS)
        app = application(load, limits, local=not open_to_others, measure=measured)
        asyncio.run(serving(app, listening, url_of(listening), started))
    failure = app.state.service.failure
    if failure:
        raise failure


async def serving(
    app: FastAPI, listening: socket.socket, url: str, started: Callable[[str, str], None]
) -> None:
    """Take requests until told to stop."""
    loop = asyncio.get_running_loop()
    service: Service = app.state.service
    limits = service.limits
    config = uvicorn.Config(
        app,
        http=partial(
            Connection, most=most_connections(limits.connections), head_seconds=limits.head_deadline
        ),  # type: ignore[arg-type]
        ws="none",
        lifespan="on",
        log_level="error",  # a line for each malformed request would fill the log
        access_log=False,
        server_header=False,
        backlog=ACCEPTED_AT_ONCE,
        timeout_graceful_shutdown=1,
    )
    server = Server(config, partial(loop.call_soon_threadsafe, service.stop))
    running = asyncio.create_task(server.serve([listening]))
    while not server.started and not running.done():
        await asyncio.sleep(0.01)
    listening.listen(WAITING_CONNECTIONS)
    telling = asyncio.create_task(tell_start(service, partial(started, url)))
    stopped = asyncio.create_task(service.stopped())
    await asyncio.wait({running, stopped}, return_when=asyncio.FIRST_COMPLETED)
    for connection in list(server.server_state.connections):
        if isinstance(connection, Connection) and connection.waiting_since is None:
            connection.transport.abort()  # who does not read its answer is not waited for
    server.should_exit = True
    await running
    for task in (telling, stopped):
        task.cancel()


async def tell_start(service: Service, started: Callable[[str], None]) -> None:
    await service.started.wait()
    if service.sampler:
        started(service.sampler.manifest["model_id"])


def bound(host: str, port: int) -> socket.socket:
    """A listening socket, or `ConfigError`."""
    whole("--port", port, 0, 65_535)
    try:
        family, kind, protocol, _, address = socket.getaddrinfo(
            host, port, type=socket.SOCK_STREAM
        )[0]
    except (OSError, UnicodeError) as error:
        raise ConfigError(
            f"--host: must be an address of this machine, got {host!r} ({error})"
        ) from error
    listening = socket.socket(family, kind, protocol)
    try:
        listening.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        listening.bind(address)
        listening.listen(WAITING_CONNECTIONS)
    except OSError as error:
        listening.close()
        raise ConfigError(
            f"--port: {port} of {host} cannot be had ({error.strerror}); give another, or 0 for one that is free"
        ) from error
    listening.setblocking(False)
    return listening


def reaches_others(address: str) -> bool:
    """Whether other machines may come in at an IP address."""
    return not ipaddress.ip_address(address.partition("%")[0]).is_loopback


def url_of(listening: socket.socket) -> str:
    host, port = listening.getsockname()[:2]
    return f"http://[{host}]:{port}" if ":" in host else f"http://{host}:{port}"
