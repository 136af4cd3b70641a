"""The handlers of the server's endpoints."""

from __future__ import annotations

import contextlib
import json
import secrets
from collections.abc import AsyncIterator, Callable, Hashable, Mapping, Sequence
from dataclasses import asdict
from functools import partial
from itertools import product
from typing import Any

import numpy as np
import prometheus_client
from fastapi import Request, Response
from fastapi.responses import StreamingResponse

from . import Cancellation, KvaeError, Sampler, schemas
from .checks import as_int, as_matrix
from .limits import call_limits
from .pages import PAGES
from .problems import Answer, refusal, status_of
from .results import Sample, scores_of
from .sampler import MAXIMA
from .service import Service


def service_of(request: Request) -> Service:
    service: Service = request.app.state.service
    return service


async def sample(body: schemas.SampleRequest, request: Request) -> Response:
    """New texts. Row i of a seed is the same text for every `n`, whatever other requests run at the
    same time."""
    service = service_of(request)
    model, options = service.model(request), body.options()
    service.check_texts("n", body.n)
    as_int("row", body.first_row + max(body.n - 1, 0), 0, MAXIMA["row"])
    seed = secrets.randbits(32) if body.seed is None else body.seed
    seeds_and_rows = [(seed, body.first_row + i) for i in range(body.n)]

    def sample_rows(seeds_and_rows: Sequence[tuple[int, int]], **limits: Any) -> list[Sample]:
        return model.generate_rows(
            [pair[0] for pair in seeds_and_rows],
            [pair[1] for pair in seeds_and_rows],
            **options,
            **limits,
        )

    deadline, positions = service.deadline(request, body.deadline), token_limit(model, body)
    samples = await service.run(
        request, deadline, sample_rows, seeds_and_rows, positions, *options.items()
    )
    service.metrics.texts_written.labels("sample").inc(len(samples))
    return Answer({"samples": [vars(item) for item in samples]})


def token_limit(model: Sampler, body: schemas.Choices) -> int:
    """The maximum number of tokens of a text, which is what sampling it costs."""
    return min(body.max_length or model.length, model.length)


async def stream(body: schemas.StreamRequest, request: Request) -> Response:
    """One text as server-sent events: `data: {"piece": ...}` for each piece, then the event `done`
    with text, seed and row, or the event `problem`. The pieces joined are the text that /sample
    returns for that seed and row."""
    service = service_of(request)
    model = service.model(request)
    seed = secrets.randbits(32) if body.seed is None else body.seed
    deadline = service.deadline(request, body.deadline)
    pieces = service.pieces(
        request,
        model,
        deadline,
        token_limit(model, body),
        seed=seed,
        row=body.row,
        **body.options(),
    )
    first = await anext(pieces, "")

    async def events() -> AsyncIterator[bytes]:
        text = first
        try:
            async with contextlib.aclosing(pieces):
                if first:
                    yield server_sent_event({"piece": first})
                async for piece in pieces:
                    text += piece
                    yield server_sent_event({"piece": piece})
        except KvaeError as error:
            yield server_sent_event(schemas.problem(status_of(error), str(error)), "problem")
            return
        service.metrics.texts_written.labels("stream").inc()
        yield server_sent_event({"text": text, "seed": seed, "row": body.row}, "done")

    headers = {"Cache-Control": "no-store", "X-Accel-Buffering": "no"}
    return StreamingResponse(events(), media_type="text/event-stream", headers=headers)


def server_sent_event(data: Mapping[str, Any], name: str | None = None) -> bytes:
    """A server-sent event."""
    lines = [f"event: {name}"] * (name is not None) + [f"data: {json.dumps(data)}"]
    return ("\n".join(lines) + "\n\n").encode()


async def encode(body: schemas.TextsRequest, request: Request) -> Response:
    """The latent codes of texts: their posterior means."""
    service = service_of(request)
    codes = await results_of_texts(service, request, body, lambda model: model.encode)
    return Answer(
        {
            "codes": [
                {"text": text, "code": code.tolist()}
                for text, code in zip(body.texts, codes, strict=True)
            ]
        }
    )


async def reconstruct(body: schemas.ReconstructRequest, request: Request) -> Response:
    """Texts encoded and decoded, greedily or by a beam search."""
    service = service_of(request)
    positions = searched_positions(service.model(request), body.beam)
    decoded = await results_of_texts(
        service,
        request,
        body,
        lambda model: partial(model.reconstruct, beam=body.beam),
        positions,
        body.beam,
    )
    service.metrics.texts_written.labels("reconstruct").inc(len(decoded))
    pairs, alphabet = zip(body.texts, decoded, strict=True), service.model(request).alphabet
    return Answer(
        {
            "reconstructions": [
                {"text": text, "reconstruction": other, "equal": alphabet.folded(text) == other}
                for text, other in pairs
            ]
        }
    )


async def results_of_texts(
    service: Service,
    request: Request,
    body: schemas.TextsRequest,
    method: Callable[[Sampler], Callable[..., Any]],
    positions: int | None = None,
    *shared: Hashable,
) -> list[Any]:
    """The results, one per text, of a method of `Sampler` that takes texts and `unknown`. A text
    costs `positions` (default: one of each of the model's); requests run together if `shared` is
    equal."""
    model = service.model(request)
    positions = positions or model.length
    service.check_texts("texts", len(body.texts))
    deadline = service.deadline(request, body.deadline)
    await tokens_of(service, request, deadline, body.texts, body.unknown)
    run = partial(method(model), unknown=body.unknown)
    return await service.run(request, deadline, run, body.texts, positions, body.unknown, *shared)


async def tokens_of(
    service: Service,
    request: Request,
    deadline: float,
    texts: list[str],
    unknown: str,
    too_long: str = "refuse",
) -> np.ndarray:
    """Rows of ids (n, T); raises `DataError` for texts that the model cannot read."""
    tokenize = service.model(request)._tokens
    characters = sum(map(len, texts))
    tokens: np.ndarray = await service.prepare(
        request, deadline, characters, tokenize, texts, unknown, too_long
    )
    return tokens


async def decode(body: schemas.DecodeRequest, request: Request) -> Response:
    """The most probable texts of latent codes, such as those of /encode or points between them."""
    service = service_of(request)
    model = service.model(request)
    service.check_texts("codes", len(body.codes))
    if not body.codes:
        return Answer({"texts": []})
    codes = as_matrix("codes", body.codes, model.latent_size)
    deadline = service.deadline(request, body.deadline)
    texts = await run_decoding(service, request, deadline, codes, body.beam)
    return Answer({"texts": texts})


async def run_decoding(
    service: Service, request: Request, deadline: float, codes: np.ndarray, beam: int | None
) -> list[str]:
    """The texts of codes (n, d), decoded greedily or by a beam search, together with those of other
    requests."""
    model = service.model(request)
    positions = searched_positions(model, beam)

    def decode_rows(codes: Sequence[np.ndarray], **limits: Any) -> list[str]:
        return model.decode(np.stack(codes), beam=beam, **limits)

    texts: list[str] = await service.run(
        request, deadline, decode_rows, list(codes), positions, beam
    )
    service.metrics.texts_written.labels(request.url.path[1:]).inc(len(texts))
    return texts


def searched_positions(model: Sampler, beam: int | None) -> int:
    """The positions that decoding one code computes; raises `ConfigError` if the bundle cannot
    search."""
    model._search(beam)
    return model.length * (beam or 1)


async def interpolate(body: schemas.InterpolateRequest, request: Request) -> Response:
    """Texts at evenly spaced points between the latent codes of two texts."""
    service = service_of(request)
    model = service.model(request)
    service.check_texts("steps", body.steps)
    deadline = service.deadline(request, body.deadline)
    characters = len(body.first) + len(body.last)
    walk = (body.first, body.last, body.steps, body.path, body.unknown)
    codes = await service.prepare(request, deadline, characters, model._codes_between, *walk)
    texts = await run_decoding(service, request, deadline, codes, body.beam)
    return Answer({"interpolation": texts})


async def score(body: schemas.ScoreRequest, request: Request) -> Response:
    """Upper bounds on -log p(text) in nats, with their parts."""
    service = service_of(request)
    model = service.model(request)
    service.check_texts("samples", body.samples)
    service.check_texts("texts by samples", len(body.texts) * body.samples)
    model._check_attribute(body.attribute)
    deadline, texts = service.deadline(request, body.deadline), body.texts
    tokens = await tokens_of(service, request, deadline, texts, body.unknown, body.too_long)
    if not texts:
        return Answer({"scores": []})
    items = [(row, body.seed, sample) for sample, row in product(range(body.samples), tokens)]

    def score_items(
        items: Sequence[tuple[np.ndarray, int, int]], cancel: Cancellation
    ) -> list[tuple[np.floating, np.ndarray]]:
        rows, seeds, samples = zip(*items, strict=True)
        with call_limits(cancel=cancel):
            _, kl, nats = model.score_tokens(
                np.stack(rows), np.array(seeds), np.array(samples), body.attribute
            )
        # The rows of a piece are as long as its longest text.
        nats = np.pad(nats, ((0, 0), (0, model.length - nats.shape[1])))
        return list(zip(kl, nats, strict=True))

    parts = await service.run(request, deadline, score_items, items, model.length, body.attribute)
    kl, nats = (np.stack([part[i] for part in parts]) for i in (0, 1))
    by_sample = (kl.reshape(body.samples, len(texts)), nats.reshape(body.samples, len(texts), -1))
    # Samples are added one after another, as in Sampler.score: the order of np.mean would depend
    # on the number of texts.
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
    """Whether the process runs."""
    return Answer({"status": "alive"})


async def ready(request: Request) -> Response:
    """Whether requests are accepted: not while the graphs are loaded, nor while the server shuts
    down."""
    service_of(request).model(request)
    return Answer({"status": "ready"})


async def metrics(request: Request) -> Response:
    """Metrics for Prometheus."""
    content = prometheus_client.generate_latest(service_of(request).metrics.registry)
    return Response(content, media_type=prometheus_client.CONTENT_TYPE_LATEST)


async def info(request: Request) -> Response:
    """The bundle's manifest (vocabulary, latent code, training summary, versions) and the server's
    limits."""
    service = service_of(request)
    manifest = json.dumps(service.model(request).info())
    return Answer(
        {**json.loads(manifest, parse_constant=lambda _: None), "limits": asdict(service.limits)}
    )


async def latent_map(request: Request) -> Response:
    """Held-out texts as points of a plane in latent space: the two main components of the posterior
    means. The point (x, y) is the code mean + x components[0] + y components[1]. 404: the bundle
    has no map."""
    found = service_of(request).model(request).latent_map
    if found is None:
        return refusal(404, "the bundle has no map; `kvae export` adds one to a model with codes")
    return Answer(found)


Handler = Callable[..., Any]

MODEL_ENDPOINTS: Mapping[str, tuple[Handler, type[schemas.BaseModel] | None]] = {
    "/sample": (sample, schemas.Samples),
    "/stream": (stream, None),
    "/encode": (encode, schemas.Encoded),
    "/reconstruct": (reconstruct, schemas.Reconstructions),
    "/decode": (decode, schemas.Decoded),
    "/interpolate": (interpolate, schemas.Interpolation),
    "/score": (score, schemas.Scores),
}
"""Endpoints for POST, with the model of their answer; None: server-sent events."""

STATE_ENDPOINTS: Mapping[str, tuple[Handler, type[schemas.BaseModel] | None, tuple[int, ...]]] = {
    "/health": (health, schemas.Status, (421,)),
    "/ready": (ready, schemas.Status, (421, 503)),
    "/metrics": (metrics, None, (421,)),
    "/info": (info, schemas.Info, (421, 503)),
    "/map": (latent_map, schemas.LatentMap, (404, 421, 503)),
}
"""Endpoints for GET, with the model of their answer and the statuses of their errors; None: plain
text."""

MODEL_PROBLEMS = (400, 408, 413, 421, 422, 429, 500, 503, 504)
"""Statuses of the errors of every endpoint for POST."""

ENDPOINT_PATHS = {*MODEL_ENDPOINTS, *STATE_ENDPOINTS, *PAGES, "/openapi.json"}
"""Paths with metrics of their own; requests for other paths count as "other"."""
