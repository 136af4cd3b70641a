"""The OpenAPI description of the server: its answers, its events, its problems and its limits."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from fastapi import FastAPI
from fastapi.openapi.utils import get_openapi

from . import schemas
from .service import Limits

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
            "content": {
                "application/problem+json": {"schema": {"$ref": "#/components/schemas/Problem"}}
            },
        }
        if status in (429, 503):
            told[status]["headers"] = {
                "Retry-After": {
                    "description": "seconds",
                    "schema": {"type": "integer", "minimum": 0},
                }
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
        schema = get_openapi(
            title="kvae", version="1", description="Texts from a bundle of kvae.", routes=app.routes
        )
        parts = schema["components"]["schemas"]
        parts["Problem"] = schemas.Problem.model_json_schema()
        parts["SampleRequest"]["properties"]["n"]["maximum"] = limits.max_texts
        parts["InterpolateRequest"]["properties"]["steps"]["maximum"] = limits.max_texts
        parts["ScoreRequest"]["properties"]["samples"]["maximum"] = limits.max_texts
        for name in ("TextsRequest", "ScoreRequest"):
            parts[name]["properties"]["texts"]["maxItems"] = limits.max_texts
        app.openapi_schema = schema
    return app.openapi_schema
