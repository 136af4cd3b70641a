"""What the server answers at each address."""

from __future__ import annotations

import contextlib
import json
import secrets
from collections.abc import AsyncIterator, Callable, Mapping, Sequence
from dataclasses import asdict
from functools import partial
from itertools import product
from pathlib import Path
from typing import Any

import numpy as np
import prometheus_client
from fastapi import Request, Response
from fastapi.responses import HTMLResponse, StreamingResponse

from . import Cancellation, KvaeError, Sampler, schemas
from .checks import whole
from .limits import within
from .problems import Answer, status_of
from .results import scores_of
from .sampler import LARGEST
from .service import Service

PAGE = Path(__file__).with_name("page.html")

PAGE_HEADERS = {
    "Content-Security-Policy": "default-src 'none'; script-src 'unsafe-inline'; style-src 'unsafe-inline'; "
    "connect-src 'self'; img-src data:; base-uri 'none'; form-action 'none'; frame-ancestors 'none'",
    "Referrer-Policy": "no-referrer",
    "X-Content-Type-Options": "nosniff",
}


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
        return model.generate_rows(
            [place[0] for place in places], [place[1] for place in places], **options, **limits
        )

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
    pieces = service.pieces(
        request, model, deadline, longest(model, body), seed=seed, row=body.row, **body.options()
    )
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
        {
            "codes": [
                {"text": text, "code": code.tolist()}
                for text, code in zip(body.texts, codes, strict=True)
            ]
        }
    )


async def reconstruct(body: schemas.TextsRequest, request: Request) -> Response:
    """Texts through their codes and back, greedily."""
    service = service_of(request)
    again = await read(service, request, body, lambda model: model.reconstruct)
    service.metrics.texts_written.labels("reconstruct").inc(len(again))
    pairs = zip(body.texts, again, strict=True)
    return Answer(
        {
            "reconstructions": [
                {"text": text, "reconstruction": other, "equal": text == other}
                for text, other in pairs
            ]
        }
    )


async def read(
    service: Service,
    request: Request,
    body: schemas.TextsRequest,
    method: Callable[[Sampler], Callable[..., Any]],
) -> list[Any]:
    """One result a text, of a method that takes texts and `unknown`."""
    model = service.model(request)
    service.check_texts("texts", len(body.texts))
    deadline = service.deadline(request, body.deadline)
    await tokens_of(service, request, deadline, body.texts, body.unknown)
    run = partial(method(model), unknown=body.unknown)
    return await service.run(request, deadline, run, body.texts, model.length, body.unknown)


async def tokens_of(
    service: Service,
    request: Request,
    deadline: float,
    texts: list[str],
    unknown: str,
    too_long: str = "refuse",
) -> np.ndarray:
    """Rows of ids (n, T), or the error of texts that the model cannot read."""
    read = service.model(request)._tokens
    return await service.prepared(
        request, deadline, sum(map(len, texts)), read, texts, unknown, too_long
    )


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
            _, kl, nats = model.score_tokens(
                np.stack(rows), np.array(seeds), np.array(samples), body.attribute
            )
        nats = np.pad(
            nats, ((0, 0), (0, model.length - nats.shape[1]))
        )  # pieces end with their longest text
        return list(zip(kl, nats, strict=True))

    parts = await service.run(request, deadline, read, items, model.length, body.attribute)
    kl, nats = (np.stack([part[i] for part in parts]) for i in (0, 1))
    by_sample = (kl.reshape(body.samples, len(texts)), nats.reshape(body.samples, len(texts), -1))
    # One sample after the other, as Sampler.score adds them: np.mean would add a single text's in another order.
    kl, nats = (
        np.add.accumulate(part, axis=0, dtype=float)[-1] / body.samples for part in by_sample
    )
    return Answer(
        {
            "scores": [
                vars(item)
                for item in scores_of(texts, tokens, kl, nats, model.manifest["mode"] == "lines")
            ]
        }
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
    return Answer(
        {**json.loads(manifest, parse_constant=lambda _: None), "limits": asdict(service.limits)}
    )


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
