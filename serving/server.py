"""`kvae serve`: a bundle as a web service, with limits on all that a request may cost.

Each request gets a fair share of the model by what it costs, and those that may share a batch do, with the answers that each
would get alone (`batching`, `shares`). Connections are bounded in number and time (`connections`). Every error is a problem
of one sentence (RFC 9457).
"""

from __future__ import annotations

import asyncio
import contextlib
import difflib
import ipaddress
import json
import re
import reprlib
import secrets
import socket
import time
from collections.abc import AsyncIterator, Callable, Mapping, Sequence
from dataclasses import asdict
from functools import partial
from itertools import islice, product
from pathlib import Path
from types import FrameType
from typing import Any

import numpy as np
import prometheus_client
import uvicorn
from fastapi import FastAPI, HTTPException, Request, Response
from fastapi.exceptions import RequestValidationError
from fastapi.openapi.utils import get_openapi
from fastapi.responses import HTMLResponse, JSONResponse, StreamingResponse
from starlette.exceptions import HTTPException as AnyHTTPException

from . import Cancellation, Cancelled, ConfigError, DataError, DeadlineError, KvaeError, Sampler, schemas
from .batching import Busy, Unavailable
from .bundle import ENDPOINTS
from .checks import whole
from .connections import ACCEPTED_AT_ONCE, Connection, most_connections
from .limits import within
from .results import scores_of
from .sampler import LARGEST
from .service import ClientLeft, Limits, Service, measured
from .shares import Speed

PAGE = Path(__file__).with_name("page.html")

PAGE_HEADERS = {
    "Content-Security-Policy": "default-src 'none'; script-src 'unsafe-inline'; style-src 'unsafe-inline'; "
    "connect-src 'self'; img-src data:; base-uri 'none'; form-action 'none'; frame-ancestors 'none'",
    "Referrer-Policy": "no-referrer",
    "X-Content-Type-Options": "nosniff",
}

WAITING_CONNECTIONS = 2048
"""Connections that the system holds until they are accepted."""

DRAIN_SECONDS = 0.5
"""How long a body is read on whose answer is known already."""

CLIENT_LEFT = 499
"""Status in the metrics of a request whose client did not wait for the answer."""


STATUS: Mapping[type[KvaeError], int] = {
    Busy: 429,
    Unavailable: 503,
    Cancelled: 503,
    DeadlineError: 504,
    ConfigError: 422,
    DataError: 422,
}
"""Which errors are whose fault; any other is the server's: 500."""


# --- endpoints -------------------------------------------------------------------------------------------------------


def service_of(request: Request) -> Service:
    return request.app.state.service


async def sample(body: schemas.SampleRequest, request: Request) -> Response:
    """New texts. Row i of a seed is the same text whatever `n`, and whoever else asks at the same time."""
    service = service_of(request)
    model, options = service.model(request), body.options()
    service.check_texts("n", body.n)
    whole("row", body.first_row + max(body.n - 1, 0), 0, LARGEST["row"])
    seed = secrets.randbits(32) if body.seed is None else body.seed
    places = [(seed, body.first_row + i) for i in range(body.n)]

    def write(places: Sequence[tuple[int, int]], **limits: Any) -> list[Any]:
        return model.generate_rows([place[0] for place in places], [place[1] for place in places], **options, **limits)

    deadline, positions = service.deadline(request, body.deadline), longest(model, body)
    samples = await service.run(request, deadline, write, places, positions, *options.items())
    service.metrics.texts_written.labels("sample").inc(len(samples))
    return Answer({"samples": [vars(item) for item in samples]})


def longest(model: Sampler, body: schemas.Choices) -> int:
    """Tokens that a text may have: what it costs to write it."""
    return min(body.max_length or model.length, model.length)


async def stream(body: schemas.StreamRequest, request: Request) -> Response:
    """One text as server-sent events: `data: {"piece": ...}` again and again, then the event `done` with text, seed and row,
    or the event `problem`. The pieces joined are the text that /sample writes at that seed and row."""
    service = service_of(request)
    model = service.model(request)
    seed = secrets.randbits(32) if body.seed is None else body.seed
    deadline = service.deadline(request, body.deadline)
    pieces = service.pieces(request, model, deadline, longest(model, body), seed=seed, row=body.row, **body.options())
    first = await anext(pieces, "")

    async def events() -> AsyncIterator[bytes]:
        text = first
        try:
            async with contextlib.aclosing(pieces):
                if first:
                    yield event({"piece": first})
                async for piece in pieces:
                    text += piece
                    yield event({"piece": piece})
        except KvaeError as error:
            yield event(schemas.problem(status_of(error), str(error)), "problem")
            return
        service.metrics.texts_written.labels("stream").inc()
        yield event({"text": text, "seed": seed, "row": body.row}, "done")

    headers = {"Cache-Control": "no-store", "X-Accel-Buffering": "no"}
    return StreamingResponse(events(), media_type="text/event-stream", headers=headers)


def event(data: Mapping[str, Any], name: str | None = None) -> bytes:
    """A server-sent event."""
    lines = [f"event: {name}"] * (name is not None) + [f"data: {json.dumps(data)}"]
    return ("\n".join(lines) + "\n\n").encode()


async def encode(body: schemas.TextsRequest, request: Request) -> Response:
    """The latent codes of texts: the means of their posteriors."""
    service = service_of(request)
    codes = await read(service, request, body, lambda model: model.encode)
    return Answer(
        {"codes": [{"text": text, "code": code.tolist()} for text, code in zip(body.texts, codes, strict=True)]}
    )


async def reconstruct(body: schemas.TextsRequest, request: Request) -> Response:
    """Texts through their codes and back, greedily."""
    service = service_of(request)
    again = await read(service, request, body, lambda model: model.reconstruct)
    service.metrics.texts_written.labels("reconstruct").inc(len(again))
    pairs = zip(body.texts, again, strict=True)
    return Answer(
        {"reconstructions": [{"text": text, "reconstruction": other, "equal": text == other} for text, other in pairs]}
    )


async def read(
    service: Service, request: Request, body: schemas.TextsRequest, method: Callable[[Sampler], Callable[..., Any]]
) -> list[Any]:
    """One result a text, of a method that takes texts and `unknown`."""
    model = service.model(request)
    service.check_texts("texts", len(body.texts))
    deadline = service.deadline(request, body.deadline)
    await tokens_of(service, request, deadline, body.texts, body.unknown)
    run = partial(method(model), unknown=body.unknown)
    return await service.run(request, deadline, run, body.texts, model.length, body.unknown)


async def tokens_of(
    service: Service, request: Request, deadline: float, texts: list[str], unknown: str, too_long: str = "refuse"
) -> np.ndarray:
    """Rows of ids (n, T), or the error of texts that the model cannot read."""
    read = service.model(request)._tokens
    return await service.prepared(request, deadline, sum(map(len, texts)), read, texts, unknown, too_long)


async def interpolate(body: schemas.InterpolateRequest, request: Request) -> Response:
    """Texts on the way from one to another."""
    service = service_of(request)
    model = service.model(request)
    service.check_texts("steps", body.steps)
    deadline, read = service.deadline(request, body.deadline), model._codes_between
    way = (body.first, body.last, body.steps, body.path, body.unknown)
    codes = await service.prepared(request, deadline, len(body.first) + len(body.last), read, *way)

    def write(codes: Sequence[np.ndarray], **limits: Any) -> list[str]:
        return model.decode(np.stack(codes), **limits)

    texts = await service.run(request, deadline, write, list(codes), model.length)
    service.metrics.texts_written.labels("interpolate").inc(len(texts))
    return Answer({"interpolation": texts})


async def score(body: schemas.ScoreRequest, request: Request) -> Response:
    """How surprising texts are: upper bounds on -log p(text), nats, with their parts."""
    service = service_of(request)
    model = service.model(request)
    service.check_texts("texts by samples", len(body.texts) * body.samples)
    model._check_attribute(body.attribute)
    deadline, texts = service.deadline(request, body.deadline), body.texts
    tokens = await tokens_of(service, request, deadline, texts, body.unknown, body.too_long)
    if not texts:
        return Answer({"scores": []})
    items = [(row, body.seed, sample) for sample, row in product(range(body.samples), tokens)]

    def read(
        items: Sequence[tuple[np.ndarray, int, int]], cancel: Cancellation
    ) -> list[tuple[np.floating, np.ndarray]]:
        rows, seeds, samples = zip(*items, strict=True)
        with within(cancel=cancel):
            _, kl, nats = model.score_tokens(np.stack(rows), np.array(seeds), np.array(samples), body.attribute)
        nats = np.pad(nats, ((0, 0), (0, model.length - nats.shape[1])))  # pieces end with their longest text
        return list(zip(kl, nats, strict=True))

    parts = await service.run(request, deadline, read, items, model.length, body.attribute)
    kl, nats = (np.stack([part[i] for part in parts]) for i in (0, 1))
    by_sample = (kl.reshape(body.samples, len(texts)), nats.reshape(body.samples, len(texts), -1))
    # One sample after the other, as Sampler.score adds them: np.mean would add a single text's in another order.
    kl, nats = (np.add.accumulate(part, axis=0, dtype=float)[-1] / body.samples for part in by_sample)
    return Answer(
        {"scores": [vars(item) for item in scores_of(texts, tokens, kl, nats, model.manifest["mode"] == "lines")]}
    )


async def health() -> Response:
    """Whether the process lives."""
    return Answer({"status": "alive"})


async def ready(request: Request) -> Response:
    """Whether requests are taken: not while the graphs start, and not while the server shuts down."""
    service_of(request).model(request)
    return Answer({"status": "ready"})


async def metrics(request: Request) -> Response:
    """For Prometheus."""
    content = prometheus_client.generate_latest(service_of(request).metrics.registry)
    return Response(content, media_type=prometheus_client.CONTENT_TYPE_LATEST)


async def info(request: Request) -> Response:
    """The bundle's manifest: vocabulary, latent code, training summary, versions; and the server's limits."""
    service = service_of(request)
    manifest = json.dumps(service.model(request).info())
    return Answer({**json.loads(manifest, parse_constant=lambda _: None), "limits": asdict(service.limits)})


async def page() -> Response:
    """Playing with the model, and what there is to call."""
    return HTMLResponse(PAGE.read_text(encoding="utf-8"), headers=PAGE_HEADERS)


Handler = Callable[..., Any]

MODEL_ENDPOINTS: Mapping[str, tuple[Handler, type[schemas.BaseModel] | None]] = {
    "/sample": (sample, schemas.Samples),
    "/stream": (stream, None),
    "/encode": (encode, schemas.Codes),
    "/reconstruct": (reconstruct, schemas.Reconstructions),
    "/interpolate": (interpolate, schemas.Interpolation),
    "/score": (score, schemas.Scores),
}
"""What is POSTed, with what it answers; None: server-sent events."""

STATE_ENDPOINTS: Mapping[str, tuple[Handler, type[schemas.BaseModel] | None, tuple[int, ...]]] = {
    "/health": (health, schemas.Status, (421,)),
    "/ready": (ready, schemas.Status, (421, 503)),
    "/metrics": (metrics, None, (421,)),
    "/info": (info, schemas.Info, (421, 503)),
}
"""What one GETs, with the statuses of its errors; None: plain text."""

MODEL_PROBLEMS = (400, 408, 413, 421, 422, 429, 500, 503, 504)
ENDPOINT_NAMES = {*MODEL_ENDPOINTS, *STATE_ENDPOINTS, "/", "/docs", "/openapi.json"}


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


# --- problems --------------------------------------------------------------------------------------------------------


class Answer(JSONResponse):
    """JSON in ASCII, whatever characters a text has."""

    def render(self, content: Any) -> bytes:
        return json.dumps(content, allow_nan=False).encode()


class Refusal(Answer):
    media_type = "application/problem+json"


def refusal(status: int, detail: str, headers: Mapping[str, str] | None = None, retry: int = 1) -> Response:
    """A problem as an answer; one that may be gone in `retry` seconds says so."""
    again = {"Retry-After": str(retry)} if status in (429, 503) else {}
    return Refusal(schemas.problem(status, detail), status, {**again, **(headers or {})})


def status_of(error: KvaeError) -> int:
    return next((status for kind, status in STATUS.items() if isinstance(error, kind)), 500)


async def of_kvae(request: Request, error: KvaeError) -> Response:
    return refusal(status_of(error), str(error), retry=getattr(error, "retry", 1))


async def of_validation(request: Request, error: RequestValidationError) -> Response:
    faults = list(error.errors())
    if faults[0]["type"] == "json_invalid":
        return refusal(400, f"body: must be JSON, {faults[0]['ctx']['error']} at character {faults[0]['loc'][1]}")
    return refusal(422, "; ".join(map(sentence, faults[: schemas.SHOWN])))


async def of_http(request: Request, error: AnyHTTPException) -> Response:
    known = {
        400: "body: must be JSON, in UTF-8, with numbers and nesting of sensible size",
        404: f"{cut(request.url.path)}: nothing is here; /docs lists what there is",
        405: f"{cut(request.url.path)}: does not take {cut(request.method)}; /docs lists what there is",
    }
    return refusal(error.status_code, known.get(error.status_code, str(error.detail)), error.headers)


async def of_nobody(request: Request, error: Exception) -> Response:
    return Response(status_code=CLIENT_LEFT)


async def of_anything(request: Request, error: Exception) -> Response:
    return refusal(500, f"the server failed with {type(error).__name__}; its log says more")


def sentence(fault: Mapping[str, Any]) -> str:
    """One of pydantic's faults: the argument, the rule, the value received."""
    if fault["type"] == "unknown_names":
        return "; ".join(map(unknown_name, fault["ctx"]["names"]))
    place = ".".join(map(str, fault["loc"][1:])) or "body"
    rule = fault["msg"].removeprefix("Input ").removeprefix("Value error, ")
    if place == "body" and fault["type"] != "missing":
        rule = "must be one JSON object, with Content-Type: application/json"
    received = "" if fault["type"] == "missing" else f", got {shortened(fault['input'])}"
    return f"{place}: {rule[0].lower()}{rule[1:]}{received}"


def unknown_name(name: str) -> str:
    """What is said of an argument that there is not, with the nearest that there is."""
    name = cut(name)
    near = difflib.get_close_matches(name, ARGUMENTS, 1)
    return f"{name}: is no argument here" + (f"; did you mean {near[0]}?" if near else "; /docs lists them")


ARGUMENTS = sorted(
    {
        name
        for model in (
            schemas.SampleRequest,
            schemas.StreamRequest,
            schemas.TextsRequest,
            schemas.InterpolateRequest,
            schemas.ScoreRequest,
        )
        for name in model.model_fields
    }
)


def cut(name: str) -> str:
    """A name of at most 40 characters, whatever was sent."""
    return name if len(name) <= 40 else f"{name[:37]}..."


def shortened(value: Any) -> str:
    """A value as Python writes it, of at most 80 characters and not deep."""
    if isinstance(value, dict):
        value = dict(islice(value.items(), 4))  # reprlib would sort them all
    return f"{reprlib.repr(value):.80}"


EVENT = {
    "type": "object",
    "required": ["data"],
    "properties": {
        "event": {"enum": ["message", "done", "problem"], "default": "message"},
        "data": {"type": "string", "contentMediaType": "application/json"},
    },
}
"""An event of /stream, as OpenAPI 3.2 describes the parts of a stream."""


def problems(statuses: Sequence[int]) -> dict[int | str, Any]:
    """How OpenAPI tells of errors."""
    told: dict[int | str, Any] = {}
    for status in statuses:
        told[status] = {
            "description": schemas.PROBLEMS[status][1],
            "content": {"application/problem+json": {"schema": {"$ref": "#/components/schemas/Problem"}}},
        }
        if status in (429, 503):
            told[status]["headers"] = {
                "Retry-After": {"description": "seconds", "schema": {"type": "integer", "minimum": 0}}
            }
    return told


def content_of(media_type: str, description: str, schema: Mapping[str, Any]) -> dict[str, Any]:
    return {
        "description": description,
        "content": {media_type: {"itemSchema" if schema is EVENT else "schema": schema}},
    }


def described(app: FastAPI, limits: Limits) -> dict[str, Any]:
    """The OpenAPI description, this server's limits included."""
    if not app.openapi_schema:
        schema = get_openapi(title="kvae", version="1", description="Texts from a bundle of kvae.", routes=app.routes)
        parts = schema["components"]["schemas"]
        parts["Problem"] = schemas.Problem.model_json_schema()
        parts["SampleRequest"]["properties"]["n"]["maximum"] = limits.max_texts
        parts["InterpolateRequest"]["properties"]["steps"]["maximum"] = limits.max_texts
        parts["ScoreRequest"]["properties"]["samples"]["maximum"] = limits.max_texts
        for name in ("TextsRequest", "ScoreRequest"):
            parts[name]["properties"]["texts"]["maxItems"] = limits.max_texts
        app.openapi_schema = schema
    return app.openapi_schema


# --- around every request --------------------------------------------------------------------------------------------


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
                    message = {**message, "headers": [*message.get("headers", ()), (b"connection", b"close")]}
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
            late = HTTPException(408, f"body: did not arrive in {seconds:g} seconds; send it faster")
            try:
                async with self.service.until(self.began + seconds, late):
                    message = await self._next()
            except Unavailable as error:  # FastAPI takes other errors of a body for those of its JSON
                raise HTTPException(503, str(error)) from None
        if max(self.declared, self.taken) > self.most:
            raise HTTPException(413, f"body: must have at most {self.most:,} bytes; send it in several requests")
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


HOST = re.compile(r"(?:\[(?P<six>[0-9A-Fa-f:.]+)\]|(?P<name>[0-9A-Za-z.-]+))(?::[0-9]{0,5})?", re.ASCII)
"""`uri-host [ ":" port ]` of RFC 9110, as far as names and addresses of this machine go."""


def is_local(host: str) -> bool:
    """Whether a Host header names no domain but localhost: that name, an IP address, or nothing."""
    parts = HOST.fullmatch(host)
    if not parts:
        return host == ""
    name = parts["six"] or parts["name"].removesuffix(".").lower()
    try:
        return name == "localhost" or ipaddress.ip_address(name).version == (6 if parts["six"] else 4)
    except ValueError:
        return False


# --- the process -----------------------------------------------------------------------------------------------------


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
        say(f"--host {host}: whoever reaches this machine can use the model, without password or encryption")
    with contextlib.closing(listening):
        load = partial(Sampler.load, path, threads, ENDPOINTS)
        app = application(load, limits, local=not open_to_others, measure=measured)
        asyncio.run(serving(app, listening, url_of(listening), started))
    failure = app.state.service.failure
    if failure:
        raise failure


async def serving(app: FastAPI, listening: socket.socket, url: str, started: Callable[[str, str], None]) -> None:
    """Take requests until told to stop."""
    loop = asyncio.get_running_loop()
    service: Service = app.state.service
    limits = service.limits
    config = uvicorn.Config(
        app,
        http=partial(Connection, most=most_connections(limits.connections), head_seconds=limits.head_deadline),  # type: ignore[arg-type]
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
        family, kind, protocol, _, address = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)[0]
    except (OSError, UnicodeError) as error:
        raise ConfigError(f"--host: must be an address of this machine, got {host!r} ({error})") from error
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
