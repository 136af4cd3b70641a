"""What the documentation names exists: presets, settings, commands, functions, pages."""

import ast
import re
import shlex
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from kvae.cli import parser
from kvae.commands.training_arguments import with_arguments
from kvae.configuration import Config, dotted_keys, parse_setting
from kvae.presets import PRESETS, PUBLISHED, preset
from kvae.run_defaults import PRESET

ROOT = Path(__file__).parents[1]
DOCS = {path.relative_to(ROOT).as_posix(): path for path in sorted((ROOT / "docs").glob("**/*.md"))}
PAGES = {"README.md": ROOT / "README.md", **DOCS}
INDEX = DOCS["docs/systems/README.md"]
SYSTEMS = {
    name: path for name, path in DOCS.items() if path.parent == INDEX.parent and path != INDEX
}
RESULTS = ROOT / "docs" / "results.md"

pages = pytest.mark.parametrize("page", PAGES.values(), ids=PAGES.keys())
system_pages = pytest.mark.parametrize("page", SYSTEMS.values(), ids=SYSTEMS.keys())

NO_SETTINGS = {"model.fit", "model.keras", "model.terms", "model.track"}
"""Words in backticks that look like settings: methods of a model, and its file."""

COMMAND = r"(\.venv/bin/|[A-Z_]+=\S+ |timeout [-\w= ]+)?kvae "
"""How a line begins that runs a command of ours."""

SECTIONS = "model|objective|training|data"


def text_of(page: Path) -> str:
    return page.read_text(encoding="utf-8")


def code_spans(text: str) -> list[str]:
    """What stands in backticks within sentences and tables."""
    return re.findall(
        r"`([^`\n]+)`", re.sub(r"^```.*?^```", "", text, flags=re.DOTALL | re.MULTILINE)
    )


def commands(text: str) -> list[list[str]]:
    """The words of every `kvae` command in a block, without those that leave something out."""
    blocks = re.findall(r"^```(?:sh)?\n(.*?)^```", text, re.DOTALL | re.MULTILINE)
    lines = [line for block in blocks for line in re.sub(r" *\\\n *", " ", block).splitlines()]
    whole = [
        re.split(r" (?:&|\|\| .*)$", line)[0]
        for line in lines
        if not re.search(r"\.\.\.( |$)", line)
    ]
    found = [shlex.split(line, comments=True) for line in whole if re.match(COMMAND, line)]
    return [
        words[next(i for i, word in enumerate(words) if word.endswith("kvae")) + 1 :]
        for words in found
    ]


def links(text: str) -> list[tuple[str, str]]:
    """The relative links of a page: file and anchor."""
    found = re.findall(r"\]\(([^)\s]+)\)", text)
    return [
        (target, anchor)
        for target, _, anchor in (link.partition("#") for link in found)
        if ":" not in target
    ]


def anchors(text: str) -> set[str]:
    """The anchors of a page: its headings as GitHub spells them, and its own `<a>` elements."""
    headings = re.findall(r"^#+ +(.+?) *$", text, re.MULTILINE)
    spelled = {re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-") for heading in headings}
    return spelled | set(re.findall(r"""<a (?:id|name)=["']([^"']+)""", text))


def names_of(module: Path) -> set[str]:
    """Functions, methods and classes of a module."""
    tree = ast.parse(module.read_text(encoding="utf-8"))
    return {
        node.name for node in ast.walk(tree) if isinstance(node, ast.FunctionDef | ast.ClassDef)
    }


@pages
def test_every_preset_that_a_page_names_exists(page: Path) -> None:
    named = re.findall(r"--preset[ =]([\w-]+)", text_of(page))
    assert [name for name in named if name not in PRESETS] == []


@pages
def test_every_setting_that_a_page_gives_on_a_command_line_exists_and_takes_the_value(
    page: Path,
) -> None:
    for setting in re.findall(r"--set '?([\w.]+=[^\s'`]*)", text_of(page)):
        key, value = parse_setting(setting.rstrip(",;)"))
        assert key in dotted_keys()
        if value not in ("", "N"):  # a place to fill in
            Config().with_settings({key: value})


@pages
def test_every_setting_in_backticks_exists_and_takes_the_value(page: Path) -> None:
    for span in code_spans(text_of(page)):
        if re.fullmatch(rf"({SECTIONS})\.[a-z_]+(=\S+)?", span) and span not in NO_SETTINGS:
            key, equals, value = span.partition("=")
            assert key in dotted_keys()
            if equals and value != "N":
                Config().with_settings(dict([parse_setting(span)]))


@pages
def test_every_command_of_a_page_is_one_that_kvae_takes(
    page: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    for words in commands(text_of(page)):
        try:
            options = parser().parse_args(words)
        except SystemExit:
            pytest.fail(f"kvae {shlex.join(words)}: {capsys.readouterr().err.splitlines()[-1]}")
        if options.command == "train":
            with_arguments(preset(options.preset or PRESET), options)


@system_pages
def test_what_a_page_of_a_system_trains_fits_together(page: Path) -> None:
    from kvae.misfits import check_slots

    trained = [words for words in commands(text_of(page)) if words[0] == "train"]
    assert len(trained) >= 3
    for words in trained:
        options = parser().parse_args(words)
        config: Any = with_arguments(preset(options.preset), options)
        corpus_decides = {"model.length": 64, "model.vocabulary_size": 90}
        labels = {"model.attributes": ["one", "two"]} if config.data.labels else {}
        config = config.with_settings({**corpus_decides, **labels})
        check_slots(config.model, config.objective)


@system_pages
def test_the_code_path_of_a_system_names_functions_that_are_there(page: Path) -> None:
    rows = [
        [cell.strip() for cell in line.split("|")]
        for line in text_of(page).splitlines()
        if line.startswith("|")
    ]
    steps = [
        (match[1], row[3])
        for row in rows
        if (match := re.fullmatch(r"`((?:kvae|training)/\w+\.py)`", row[2]))
    ]
    assert len(steps) >= 7
    for file, functions in steps:
        named = re.findall(r"`(\w+)`", functions)
        assert named
        assert [name for name in named if name not in names_of(ROOT / file)] == []


@pages
def test_every_relative_link_of_a_page_leads_to_a_file(page: Path) -> None:
    targets = [page.parent / target for target, _ in links(text_of(page)) if target]
    missing = [target.resolve() for target in targets if not target.is_file()]
    assert [target for target in missing if target != RESULTS] == []


@pages
def test_every_chapter_that_a_page_links_to_is_there(page: Path) -> None:
    chapters = [
        ((page.parent / target).resolve() if target else page, anchor)
        for target, anchor in links(text_of(page))
    ]
    there = [(other, anchor) for other, anchor in chapters if anchor and other.is_file()]
    assert [anchor for other, anchor in there if anchor not in anchors(text_of(other))] == []
    if not RESULTS.is_file() and any(other == RESULTS for other, _ in chapters):
        pytest.skip("docs/results.md is not written yet")


def test_the_index_lists_every_page_and_every_published_preset_once() -> None:
    rows = [line for line in text_of(INDEX).splitlines() if line.startswith("| [")]
    listed = [re.match(r"\| \[[^\]]+\]\(([\w-]+\.md)\)", row) for row in rows]
    assert sorted(match[1] for match in listed if match) == sorted(
        path.name for path in SYSTEMS.values()
    )
    assert len(listed) == len(rows) == len(SYSTEMS)
    named = [span for row in rows for span in code_spans(row)]
    assert sorted(named) == sorted(PUBLISHED)


@system_pages
def test_a_page_of_a_system_has_its_five_parts(page: Path) -> None:
    text = text_of(page)
    assert re.findall(r"^## (.+)", text, re.MULTILINE) == [
        "Equations",
        "Code path",
        "Train",
        "What to expect",
    ]
    assert re.match(r"# [^\n]+\n\n[^\n#|`]", text)


def test_the_tree_names_every_file_and_no_other() -> None:
    folders = ("kvae", "training", "export", "serving")
    files = {path for folder in folders for path in (ROOT / folder).glob("**/*.py")}
    files = {path for path in files if not path.name.startswith("__")}
    named = files_of_tree(text_of(DOCS["docs/architecture.md"]).split("## The tree", 1)[1])
    assert sorted(named) == sorted(path.relative_to(ROOT).as_posix() for path in files)


def files_of_tree(tree: str) -> Iterator[str]:
    """The paths of the Python files that begin a line, each in the folders above it."""
    folders: list[str] = []
    for spaces, name in re.findall(r"^( *)([a-z_]+(?:/|\.py)) ", tree, re.MULTILINE):
        folders[len(spaces) // 2 :] = [name]
        if not name.endswith("/"):
            yield "".join(folders)


def test_the_readme_is_short() -> None:
    assert len(text_of(PAGES["README.md"]).splitlines()) <= 180
