"""The documentation site: it builds strictly, is complete, and has no broken links.

It loads nothing from another host. `make docs` is these tests: they build the site.
"""

import ast
import html
import os
import re
import subprocess
import sys
from collections.abc import Iterator
from html.parser import HTMLParser
from pathlib import Path
from urllib.parse import unquote, urlsplit

import pytest

import kvae
import kvae.serving
from kvae.cli import parser

from .test_cli_help import help_of, subcommands, words
from .test_house_layering import MODULES

ROOT = Path(__file__).parents[1]
LOADS = {
    "script": "src",
    "img": "src",
    "link": "href",
    "iframe": "src",
    "source": "src",
    "object": "data",
}
"""Elements that make a browser fetch something, and the attribute that says what."""


class Page(HTMLParser):
    """The parts of an HTML page that the tests ask about."""

    def __init__(self, path: Path) -> None:
        super().__init__()
        self.path = path
        self.anchors: set[str] = set()
        self.links: list[str] = []
        self.loaded: list[str] = []
        self.text: list[str] = []
        self._code = 0
        self.feed(path.read_text(encoding="utf-8"))

    def handle_starttag(self, tag: str, attributes: list[tuple[str, str | None]]) -> None:
        found = dict(attributes)
        self.anchors |= {found.get("id") or "", found.get("name") or ""}
        self._code += tag in ("pre", "code", "script", "style")
        if tag == "a" and found.get("href"):
            self.links.append(str(found["href"]))
        if tag in LOADS and found.get(LOADS[tag]) and found.get("rel") != "canonical":
            self.loaded.append(str(found[LOADS[tag]]))

    def handle_endtag(self, tag: str) -> None:
        self._code -= tag in ("pre", "code", "script", "style")

    def handle_data(self, data: str) -> None:
        if not self._code:
            self.text.append(data)


pytestmark = pytest.mark.site


@pytest.fixture(scope="module")
def site() -> Path:
    """The site, built without a warning."""
    folder = ROOT / "build" / "site"
    command = [sys.executable, "-m", "mkdocs", "build", "--strict", "--site-dir", str(folder)]
    built = subprocess.run(
        command,
        cwd=ROOT,
        env={**os.environ, "NO_MKDOCS_2_WARNING": "1"},
        capture_output=True,
        text=True,
    )
    assert built.returncode == 0, built.stderr
    assert "WARNING" not in built.stderr
    return folder


@pytest.fixture(scope="module")
def site_pages(site: Path) -> dict[Path, Page]:
    return {path: Page(path) for path in sorted(site.rglob("*.html"))}


def is_elsewhere(address: str) -> bool:
    return bool(urlsplit(address).netloc) or urlsplit(address).scheme not in ("", "data")


def test_no_page_loads_anything_from_another_host(site: Path, site_pages: dict[Path, Page]) -> None:
    loaded = {(path.name, address) for path, page in site_pages.items() for address in page.loaded}
    assert len(loaded) > len(site_pages)
    assert [entry for entry in loaded if is_elsewhere(entry[1])] == []
    styles = "".join(path.read_text(encoding="utf-8") for path in site.rglob("*.css"))
    assert re.findall(r"(?:url\(|@import )[\"']?(?:https?:)?//[^\"')]*", styles) == []


def test_every_link_within_the_site_leads_to_a_file_and_an_anchor(
    site_pages: dict[Path, Page],
) -> None:
    broken = [
        (path.name, link)
        for path, page in site_pages.items()
        if path.name != "404.html"  # its links start at the root of a host
        for link in page.links
        if not is_elsewhere(link) and not leads_somewhere(path, link, site_pages)
    ]
    assert broken == []


def leads_somewhere(path: Path, link: str, site_pages: dict[Path, Page]) -> bool:
    """Whether a relative link of a page leads to a file, and its anchor to a place in it."""
    target, anchor = urlsplit(link).path, unquote(urlsplit(link).fragment)
    file = (path.parent / unquote(target)).resolve() if target else path
    if not file.is_file():
        return False
    return not anchor or file not in site_pages or anchor in site_pages[file].anchors


def test_markup_is_rendered(site_pages: dict[Path, Page]) -> None:
    left_over = re.compile(r"```|^\s*\|.*\|\s*$|\]\([^)\s]+\.md|^\s*(?:-|\d+\.) ", re.MULTILINE)
    found = [
        (path.name, part)
        for path, page in site_pages.items()
        for part in page.text
        if left_over.search(part)
    ]
    assert found == []


def public_names(path: Path) -> Iterator[str]:
    """Functions and classes of a module that do not begin with an underscore."""
    for node in ast.parse(path.read_text(encoding="utf-8")).body:
        if isinstance(
            node, ast.FunctionDef | ast.AsyncFunctionDef | ast.ClassDef
        ) and not node.name.startswith("_"):
            yield node.name


def test_the_reference_has_every_public_name_of_every_module(
    site: Path, site_pages: dict[Path, Page]
) -> None:
    there = {
        anchor
        for path, page in site_pages.items()
        if site / "reference" in path.parents
        for anchor in page.anchors
    }
    documented = {
        name: path
        for name, path in MODULES.items()
        if not name.startswith(("kvae.cli", "kvae.commands"))
    }
    assert {
        "kvae.model",
        "kvae.training.data.corpora",
        "kvae.export.bundle",
        "kvae.serving.sampler",
    } <= documented.keys()
    wanted = {
        f"{module}.{name}" for module, path in documented.items() for name in public_names(path)
    }
    assert wanted - there == set()
    assert {
        "kvae.configuration.ModelConfig.encoder",
        "kvae.serving.sampler.Sampler.sample",
    } <= there


@pytest.mark.parametrize("package", [kvae, kvae.serving], ids=lambda package: package.__name__)
def test_the_index_of_the_reference_links_every_name_of_an_interface(
    package: object, site: Path
) -> None:
    index = (site / "reference" / "index.html").read_text(encoding="utf-8")
    linked = dict(
        re.findall(r'<a[^>]* href="([^"]+)"[^>]*><code>(\w+)</code></a></td>\s*<td>[A-Z]', index)
    )
    names = [name for name in package.__all__ if not name.startswith("_")]  # type: ignore[attr-defined]
    assert [name for name in names if name not in linked.values()] == []


def test_every_command_has_a_page_with_its_help(
    site: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("COLUMNS", "80")
    commands = subcommands(help_of("kvae --help"))
    assert {"train", "sample", "data"} <= set(commands)
    assert parser().prog == "kvae"
    for name in commands:
        page = html.unescape(
            re.sub("<[^>]+>", "", (site / "commands" / f"{name}.html").read_text(encoding="utf-8"))
        )
        helps = [help_of(f"kvae {name} --help")]
        helps += [help_of(f"kvae {name} {inner} --help") for inner in subcommands(helps[0])]
        for text in helps:
            assert " ".join(words(text)) in " ".join(words(page))
