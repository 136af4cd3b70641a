"""Every error of the server as a problem of one sentence (RFC 9457)."""

from __future__ import annotations

import difflib
import json
import reprlib
from collections.abc import Mapping
from itertools import islice
from typing import Any

from fastapi import Request, Response
from fastapi.exceptions import RequestValidationError
from fastapi.responses import JSONResponse
from starlette.exceptions import HTTPException as AnyHTTPException

from . import Cancelled, ConfigError, DataError, DeadlineError, KvaeError, schemas
from .batching import Busy, Unavailable

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


class Answer(JSONResponse):
    """JSON in ASCII, whatever characters a text has."""

    def render(self, content: Any) -> bytes:
        return json.dumps(content, allow_nan=False).encode()


class Refusal(Answer):
    media_type = "application/problem+json"


def refusal(
    status: int, detail: str, headers: Mapping[str, str] | None = None, retry: int = 1
) -> Response:
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
        return refusal(
            400,
            f"body: must be JSON, {faults[0]['ctx']['error']} at character {faults[0]['loc'][1]}",
        )
    return refusal(422, "; ".join(map(sentence, faults[: schemas.SHOWN])))


async def of_http(request: Request, error: AnyHTTPException) -> Response:
    known = {
        400: "body: must be JSON, in UTF-8, with numbers and nesting of sensible size",
        404: f"{cut(request.url.path)}: nothing is here; /docs lists what there is",
        405: f"{cut(request.url.path)}: does not take {cut(request.method)}; /docs lists what there is",
    }
    return refusal(
        error.status_code, known.get(error.status_code, str(error.detail)), error.headers
    )


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
    return f"{name}: is no argument here" + (
        f"; did you mean {near[0]}?" if near else "; /docs lists them"
    )


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
