"""`kvae serve`: a bundle as a web service, with limits on everything that a request may cost.

Each request gets a fair share of the model's time. Requests that can share a batch do, and get the
answers that they would get alone (`batching`, `shares`). Connections are limited in number and time
(`connections`). Every error is a problem (RFC 9457) whose detail is one sentence.
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

from . import ConfigError, KvaeError, Sampler, pages, schemas
from .checks import as_int
from .connections import ACCEPTED_AT_ONCE, Connection, connection_limit
from .endpoints import MODEL_ENDPOINTS, MODEL_PROBLEMS, STATE_ENDPOINTS, Handler
from .middleware import with_metrics_and_limits
from .openapi import EVENT, content_of, openapi_description, problems
from .problems import (
    Answer,
    http_problem,
    kvae_problem,
    no_answer,
    unexpected_problem,
    validation_problem,
)
from .service import ClientLeft, Limits, Service, measured_speeds
from .shares import Speed

WAITING_CONNECTIONS = 2048
"""Connections that the operating system queues until they are accepted."""


def application(
    load: Callable[[], Sampler],
    limits: Limits | None = None,
    local: bool = False,
    measure: Callable[[Sampler], Mapping[str, Speed]] | None = None,
) -> FastAPI:
    """The web application (ASGI) of the model that `load` returns; `state.service` is its
    `Service`.

    `measure` returns the speed of the model before requests are accepted; without it the speed is
    estimated from the first requests. `local` refuses requests whose Host is neither localhost nor
    an IP address. Otherwise a foreign web page whose domain was made to resolve to this machine
    could read the model's answers.
    """
    limits = limits or Limits()
    service = Service(load, limits, measure)
    app = FastAPI(
        title="kvae", lifespan=lambda _: service.running_tasks(), docs_url=None, redoc_url=None
    )
    app.state.service = service
    stream = content_of("text/event-stream", "events, each with JSON as data", EVENT)
    text = content_of("text/plain", "Prometheus' text format", {"type": "string"})
    for path, (handler, model) in MODEL_ENDPOINTS.items():
        register(app.post, path, handler, model, stream, MODEL_PROBLEMS)
    for path, (handler, model, statuses) in STATE_ENDPOINTS.items():
        register(app.get, path, handler, model, text, statuses)
    for path, send in pages.handlers().items():
        app.get(path, include_in_schema=False)(send)
    app.openapi = partial(openapi_description, app, limits)  # type: ignore[method-assign]
    app.add_middleware(with_metrics_and_limits, limits=limits, local=local)
    app.add_exception_handler(KvaeError, kvae_problem)  # type: ignore[arg-type]
    app.add_exception_handler(RequestValidationError, validation_problem)  # type: ignore[arg-type]
    app.add_exception_handler(AnyHTTPException, http_problem)  # type: ignore[arg-type]
    app.add_exception_handler(ClientLeft, no_answer)
    app.add_exception_handler(Exception, unexpected_problem)
    return app


def register(
    method: Callable[..., Any],
    path: str,
    handler: Handler,
    model: type[schemas.BaseModel] | None,
    untyped_answer: Mapping[str, Any],
    statuses: Sequence[int],
) -> None:
    """Add an endpoint whose answer is described by `model`, or, if that is None, by
    `untyped_answer`."""
    method(
        path,
        response_class=Response if model is None else Answer,
        responses=({} if model else {200: untyped_answer}) | problems(statuses),
        operation_id=path[1:],
        response_model=model,
    )(handler)


class Server(uvicorn.Server):
    """A uvicorn server that passes signals to `stop` instead of stopping; a second signal is passed
    on too."""

    def __init__(self, config: uvicorn.Config, stop: Callable[[], Any]) -> None:
        super().__init__(config)
        self.stop = stop

    def handle_exit(self, sig: int, frame: FrameType | None) -> None:
        """Called on a signal, between two steps of the event loop."""
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
    """Serve the bundle at `path` until a signal; then finish running requests and return.

    `started(url, model_id)` is called once the graphs are loaded. Raises `ConfigError` for an
    address that is not available and `BundleError` for a bundle that cannot be used.
    """
    listener = listening_socket(host, port)
    open_to_others = reachable_from_outside(listener.getsockname()[0])
    if open_to_others:
        say(
            f"--host {host}: anyone who reaches this machine can use the model, "
            "without password or encryption"
        )
    with contextlib.closing(listener):
        app = application(
            partial(load_all, path, threads),
            limits,
            local=not open_to_others,
            measure=measured_speeds,
        )
        asyncio.run(run_server(app, listener, url_of(listener), started))
    failure = app.state.service.failure
    if failure:
        raise failure


def load_all(path: str, threads: int | None) -> Sampler:
    """The sampler of a bundle of which every file that the server uses has been read; raises
    `BundleError`."""
    sampler = Sampler.load(path, threads, ())
    sampler.load_graphs()
    _ = sampler.latent_map
    return sampler


async def run_server(
    app: FastAPI, listener: socket.socket, url: str, started: Callable[[str, str], None]
) -> None:
    """Accept requests until the service is stopped."""
    loop = asyncio.get_running_loop()
    service: Service = app.state.service
    limits = service.limits
    config = uvicorn.Config(
        app,
        http=partial(
            Connection,
            max_connections=connection_limit(limits.connections),
            head_seconds=limits.head_deadline,
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
    running = asyncio.create_task(server.serve([listener]))
    while not server.started and not running.done():
        await asyncio.sleep(0.01)
    listener.listen(WAITING_CONNECTIONS)
    reporting = asyncio.create_task(report_start(service, partial(started, url)))
    stopped = asyncio.create_task(service.stopped())
    await asyncio.wait({running, stopped}, return_when=asyncio.FIRST_COMPLETED)
    for connection in list(server.server_state.connections):
        if isinstance(connection, Connection) and connection.waiting_since is None:
            connection.transport.abort()  # do not wait for clients that do not read their answer
    server.should_exit = True
    await running
    for task in (reporting, stopped):
        task.cancel()


async def report_start(service: Service, started: Callable[[str], None]) -> None:
    await service.started.wait()
    if service.sampler:
        started(service.sampler.manifest["model_id"])


def listening_socket(host: str, port: int) -> socket.socket:
    """A listening socket; raises `ConfigError` if the address is not available."""
    as_int("--port", port, 0, 65_535)
    try:
        family, kind, protocol, _, address = socket.getaddrinfo(
            host, port, type=socket.SOCK_STREAM
        )[0]
    except (OSError, UnicodeError) as error:
        raise ConfigError(
            f"--host: must be an address of this machine, got {host!r} ({error})"
        ) from error
    listener = socket.socket(family, kind, protocol)
    try:
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        listener.bind(address)
        listener.listen(WAITING_CONNECTIONS)
    except OSError as error:
        listener.close()
        raise ConfigError(
            f"--port: {port} of {host} is not available ({error.strerror}); "
            "give another, or 0 for a free one"
        ) from error
    listener.setblocking(False)
    return listener


def reachable_from_outside(address: str) -> bool:
    """True if other machines may reach an IP address."""
    return not ipaddress.ip_address(address.partition("%")[0]).is_loopback


def url_of(listener: socket.socket) -> str:
    host, port = listener.getsockname()[:2]
    return f"http://[{host}]:{port}" if ":" in host else f"http://{host}:{port}"
