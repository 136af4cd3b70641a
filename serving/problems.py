"""Every error of the server as a problem (RFC 9457) whose detail is one sentence."""

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
"""Status, in the metrics, of a request whose client left before the answer."""

STATUS: Mapping[type[KvaeError], int] = {
    Busy: 429,
    Unavailable: 503,
    Cancelled: 503,
    DeadlineError: 504,
    ConfigError: 422,
    DataError: 422,
}
"""Status of each error; all others are errors of the server, 500."""


class Answer(JSONResponse):
    """JSON in ASCII, whatever characters a text has."""

    def render(self, content: Any) -> bytes:
        return json.dumps(content, allow_nan=False).encode()


class Refusal(Answer):
    media_type = "application/problem+json"


def refusal(
    status: int, detail: str, headers: Mapping[str, str] | None = None, retry: int = 1
) -> Response:
    """A problem as a response. With status 429 or 503 it has a Retry-After header of `retry`
    seconds."""
    retry_after = {"Retry-After": str(retry)} if status in (429, 503) else {}
    return Refusal(schemas.problem(status, detail), status, {**retry_after, **(headers or {})})


def status_of(error: KvaeError) -> int:
    return next((status for kind, status in STATUS.items() if isinstance(error, kind)), 500)


async def kvae_problem(request: Request, error: KvaeError) -> Response:
    return refusal(status_of(error), str(error), retry=getattr(error, "retry", 1))


async def validation_problem(request: Request, error: RequestValidationError) -> Response:
    faults = list(error.errors())
    if faults[0]["type"] == "json_invalid":
        return refusal(
            400,
            f"body: must be JSON, {faults[0]['ctx']['error']} at character {faults[0]['loc'][1]}",
        )
    return refusal(422, "; ".join(map(fault_sentence, faults[: schemas.MAX_FAULTS])))


async def http_problem(request: Request, error: AnyHTTPException) -> Response:
    known = {
        400: "body: must be JSON, in UTF-8, with numbers and nesting of sensible size",
        404: f"{shortened_name(request.url.path)}: nothing is here; /docs lists what there is",
        405: f"{shortened_name(request.url.path)}: does not take "
        f"{shortened_name(request.method)}; /docs lists what there is",
    }
    return refusal(
        error.status_code, known.get(error.status_code, str(error.detail)), error.headers
    )


async def no_answer(request: Request, error: Exception) -> Response:
    return Response(status_code=CLIENT_LEFT)


async def unexpected_problem(request: Request, error: Exception) -> Response:
    return refusal(500, f"the server failed with {type(error).__name__}; its log says more")


def fault_sentence(fault: Mapping[str, Any]) -> str:
    """A fault of pydantic as a sentence: the argument, the rule, the value received."""
    if fault["type"] == "unknown_names":
        return "; ".join(map(unknown_name, fault["ctx"]["names"]))
    place = ".".join(map(str, fault["loc"][1:])) or "body"
    rule = fault["msg"].removeprefix("Input ").removeprefix("Value error, ")
    if place == "body" and fault["type"] != "missing":
        rule = "must be one JSON object, with Content-Type: application/json"
    received = "" if fault["type"] == "missing" else f", got {shortened(fault['input'])}"
    return f"{place}: {rule[0].lower()}{rule[1:]}{received}"


def unknown_name(name: str) -> str:
    """The sentence about an unknown argument, with the most similar known one."""
    name = shortened_name(name)
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
            schemas.DecodeRequest,
            schemas.InterpolateRequest,
            schemas.ScoreRequest,
        )
        for name in model.model_fields
    }
)


def shortened_name(name: str) -> str:
    """A name, shortened to 40 characters."""
    return name if len(name) <= 40 else f"{name[:37]}..."


def shortened(value: Any) -> str:
    """The repr of a value, shortened to 80 characters and limited in depth."""
    if isinstance(value, dict):
        value = dict(islice(value.items(), 4))  # reprlib would sort them all
    return f"{reprlib.repr(value):.80}"
