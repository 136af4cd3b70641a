"""The page to try a model: its files and the headers they are sent with.

Scripts and styles are files of their own, so that the browser runs nothing else
(Content-Security-Policy). uPlot (MIT, `page/uPlot-LICENSE.txt`) draws the map of the latent space.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Mapping
from pathlib import Path

from fastapi import Response

FOLDER = Path(__file__).with_name("page")

PAGES: Mapping[str, str] = {"/": "page.html", "/docs": "calls.html"}
"""The file of each page."""

MEDIA_TYPES = {".html": "text/html", ".css": "text/css", ".js": "text/javascript"}

ASSETS = sorted(path.name for path in FOLDER.iterdir() if path.suffix in (".css", ".js"))
"""Scripts and styles of the pages, each at /page/NAME."""

HEADERS = {
    "Content-Security-Policy": (
        "default-src 'none'; script-src 'self'; style-src 'self'; connect-src 'self'; "
        "img-src data:; base-uri 'none'; form-action 'none'; frame-ancestors 'none'"
    ),
    "Referrer-Policy": "no-referrer",
    "X-Content-Type-Options": "nosniff",
    "Cache-Control": "no-cache",
}


def handlers() -> dict[str, Callable[[], Awaitable[Response]]]:
    """The handler of each page, script and style, by path."""
    files = {**PAGES, **{f"/page/{name}": name for name in ASSETS}}
    return {path: sending(FOLDER / name) for path, name in files.items()}


def sending(file: Path) -> Callable[[], Awaitable[Response]]:
    """A handler that answers with a file."""
    media_type = MEDIA_TYPES[file.suffix]

    async def send() -> Response:
        return Response(file.read_bytes(), media_type=media_type, headers=HEADERS)

    return send
