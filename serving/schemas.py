"""The JSON of the server: request and answer of each endpoint, and the problem that reports an
error."""

from __future__ import annotations

from http import HTTPStatus
from itertools import islice
from typing import Annotated, Any, Literal

from pydantic import BaseModel as BaseModel
from pydantic import ConfigDict, FailFast, Field, model_validator
from pydantic_core import PydanticCustomError

from .choices import CHOICES
from .decoding import MAX_BEAM
from .sampler import MAXIMA

Seed = Annotated[int, Field(ge=0, le=MAXIMA["seed"])]
Row = Annotated[int, Field(ge=0, le=MAXIMA["row"])]
Texts = Annotated[list[str], FailFast()]
"""Validation stops at the first item that is not a text, so that the list of faults stays short."""

Codes = Annotated[list[Annotated[list[float], FailFast()]], FailFast()]

MAX_FAULTS = 5
"""Number of faults of a request that are reported."""


class Request(BaseModel):
    """Values must have their JSON type, and unknown names are errors."""

    model_config = ConfigDict(strict=True, extra="forbid", allow_inf_nan=False)

    @model_validator(mode="before")
    @classmethod
    def check_names(cls, data: Any) -> Any:
        """Report only the first unknown names: a body may contain a hundred thousand."""
        unknown_names = (
            (name for name in data if name not in cls.model_fields)
            if isinstance(data, dict)
            else ()
        )
        if names := list(islice(unknown_names, MAX_FAULTS)):
            raise PydanticCustomError("unknown_names", "unknown names", {"names": names})
        return data

    deadline: float | None = Field(
        None,
        ge=1e-3,
        description="seconds after which the answer is a 504, at most the server's own limit",
    )


def choice_field(name: str) -> Any:
    """The default, range and description of a sampling option."""
    choice = CHOICES[name]
    return Field(
        choice.default, ge=choice.low, le=choice.high, description=choice.help + choice.request_note
    )


class Choices(Request):
    """The sampling options of a request."""

    greedy: bool = choice_field("greedy")
    temperature: float | None = choice_field("temperature")
    top_k: int = choice_field("top_k")
    top_p: float = choice_field("top_p")
    min_length: int = choice_field("min_length")
    max_length: int | None = choice_field("max_length")
    attribute: str | None = choice_field("attribute")

    def options(self) -> dict[str, Any]:
        """The options as keyword arguments of `Sampler`."""
        return {name: getattr(self, name) for name in CHOICES}


class SampleRequest(Choices):
    n: int = Field(1, ge=0, description="how many texts")
    seed: Seed | None = Field(
        None, description="same seed, same texts; if not given, a random one that is in the answer"
    )
    first_row: Row = Field(0, description="row of the first text")


class StreamRequest(Choices):
    seed: Seed | None = Field(
        None, description="same seed, same text; if not given, a random one that is in the answer"
    )
    row: Row = Field(0, description="row of the seed")


class Beam(Request):
    beam: int | None = Field(
        None,
        ge=1,
        le=MAX_BEAM,
        description="beginnings of a text that a beam search keeps; greedy if not given",
    )


class Reading(Request):
    unknown: Literal["refuse", "replace"] = Field(
        "refuse", description="characters or words the model never saw"
    )


class TextsRequest(Reading):
    texts: Texts


class ReconstructRequest(TextsRequest, Beam):
    pass


class DecodeRequest(Beam):
    codes: Codes = Field(description="each with as many numbers as latent.size of /info")


class InterpolateRequest(Reading, Beam):
    first: str
    last: str
    steps: int = Field(7, ge=2, description="number of texts, ends included")
    path: Literal["linear", "spherical"] = "linear"


class ScoreRequest(Request):
    texts: Texts
    samples: int = Field(1, ge=1, description="latent codes sampled per text")
    seed: Seed = 0
    attribute: str | None = Field(None, description="label of all texts; inferred if not given")
    unknown: Literal["refuse", "replace"] = Field(
        "replace", description="characters or words the model never saw"
    )
    too_long: Literal["refuse", "cut"] = Field("refuse", description="texts longer than the model")


class Sampled(BaseModel):
    text: str
    seed: int
    row: int
    log_probability: float = Field(
        description="log p(text | z) at temperature 1, nats, the end mark included"
    )
    finished: bool = Field(description="false if the text was cut at the maximum length")
    attribute: str | None


class Samples(BaseModel):
    samples: list[Sampled]


class Code(BaseModel):
    text: str
    code: list[float] = Field(
        description="posterior mean; of a model with labels, the last columns are the inferred "
        "label, 1 for one value of latent.attributes of /info and 0 for the others"
    )


class Encoded(BaseModel):
    codes: list[Code]


class Decoded(BaseModel):
    texts: list[str]


class Reconstruction(BaseModel):
    text: str
    reconstruction: str
    equal: bool


class Reconstructions(BaseModel):
    reconstructions: list[Reconstruction]


class Interpolation(BaseModel):
    interpolation: list[str]


class Scored(BaseModel):
    text: str
    bound: float = Field(description="upper bound on -log p(text): reconstruction + kl, nats")
    reconstruction: float = Field(description="-log p(text | z), nats, the end mark included")
    kl: float = Field(description="KL of the latent code, nats")
    bits_per_character: float = Field(
        description="the bound in bits, divided by the characters and end mark"
    )
    nats: list[float] = Field(description="the reconstruction token by token, the end mark last")


class Scores(BaseModel):
    scores: list[Scored]


class Status(BaseModel):
    status: str


class Info(BaseModel):
    """The bundle's manifest and the limits of this server."""

    # Without `protected_namespaces`, pydantic before 2.10 warns about `model_id`.
    model_config = ConfigDict(extra="allow", protected_namespaces=())

    model_id: str
    limits: dict[str, float]


class Points(BaseModel):
    """Held-out texts, the values of each in the same place of every list."""

    x: list[float]
    y: list[float]
    text: list[str]
    tokens: list[int] = Field(description="length of each text")
    label: list[str] | None = Field(None, description="for a model that was trained with labels")


class Dimensions(BaseModel):
    """Dimensions of the code that say most about a text."""

    index: list[int]
    kl: list[float] = Field(description="mean over texts, nats")
    low: list[float]
    high: list[float] = Field(description="low and high: the range of the codes")


class LatentMap(BaseModel):
    """A plane in latent space with held-out texts."""

    mean: list[float]
    components: list[list[float]]
    explained_variance: list[float] = Field(description="shares of the two components")
    dimensions: Dimensions
    points: Points


class Problem(BaseModel):
    """An error (RFC 9457)."""

    type: str = Field(description="which kind of problem: urn:kvae:problem:...")
    title: str
    status: int
    detail: str = Field(
        description="one sentence: the argument, the rule, the value received, the way out"
    )


PROBLEMS = {
    400: ("not-json", "the body is not JSON"),
    404: ("not-found", "there is nothing at this address"),
    405: ("method-not-allowed", "this address takes another method"),
    408: ("slow-request", "the body took too long to arrive"),
    413: ("body-too-large", "the body is too large"),
    421: ("other-host", "the request is for another host"),
    422: ("invalid-input", "the request asks for something impossible"),
    429: ("busy", "too many requests wait"),
    500: ("failed", "the server failed"),
    503: ("unavailable", "the server is starting, shutting down, or has more work than time"),
    504: ("deadline", "the answer took too long"),
}
"""The last part of the type, and the title, of each error status."""


MAX_DETAIL = 1000
"""Limit in characters, so that a detail never repeats a body of a megabyte."""


def problem(status: int, detail: str) -> dict[str, Any]:
    """The JSON of an error."""
    if len(detail) > MAX_DETAIL:
        detail = detail[: MAX_DETAIL - 3] + "..."
    slug, title = PROBLEMS.get(status) or ("http", HTTPStatus(status).phrase.lower())
    return {"type": f"urn:kvae:problem:{slug}", "title": title, "status": status, "detail": detail}
