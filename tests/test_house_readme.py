"""The README's Python runs as it stands."""

import re
from pathlib import Path

import pytest

README = (Path(__file__).parents[1] / "README.md").read_text(encoding="utf-8")


def test_the_python_of_the_readme_trains_exports_and_samples(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    from kvae.training.named_corpora import unicode_names

    names = [
        name for name in unicode_names() if name.startswith(("GREEK", "DIGIT")) and len(name) < 32
    ]
    (tmp_path / "names.txt").write_text("\n".join([*names[:250], "BLACK STAR"]), encoding="utf-8")
    monkeypatch.chdir(tmp_path)
    training, sampling = re.findall(r"```python\n(.*?)```", README, re.DOTALL)
    exec(training, {})
    exec(sampling, {})
    assert capsys.readouterr().out.count("[") >= 3


def test_the_readme_leaves_nothing_to_fill_in() -> None:
    assert not re.search(r"@@|TODO|TBD|XXX", README)


def test_every_picture_and_page_that_the_readme_names_is_there() -> None:
    root = Path(__file__).parents[1]
    links = re.findall(r"\]\(([^)#:]+)\)", README)
    assert links
    assert [link for link in links if not (root / link).is_file()] == []
