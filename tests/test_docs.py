"""README, CONTRIBUTING and docs/: commands that tests run, links that lead somewhere, tables that leave nothing out."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from machines.boot.reasons import Reason
from tests import pages
from tests.pages import PAGES, ROOT

CONTRIBUTING = (ROOT / "CONTRIBUTING.md").read_text()
TROUBLESHOOTING = (ROOT / "docs" / "troubleshooting.md").read_text()
_FENCED = re.compile(r"^ *```.*?^ *```$", re.MULTILINE | re.DOTALL)


def anchors(page: Path) -> set[str]:
    """The names under which a page's headings can be linked to."""
    found = re.findall(r"^#+ (.+)$", _FENCED.sub("", page.read_text()), re.MULTILINE)
    return {re.sub(r"[\s-]+", "-", re.sub(r"[^\w\s-]", "", heading.lower().strip()).strip()) for heading in found}


def links(page: Path) -> list[str]:
    found = re.findall(r"\]\(([^)\s]+)\)", _FENCED.sub("", page.read_text()))
    return [link for link in found if "://" not in link]


@pytest.mark.parametrize("line", pages.shell_lines())
def test_each_command_is_run_by_a_test_or_listed_with_a_reason(line: str) -> None:
    what = pages.runs(line)
    assert what, "add this command to tests/pages.py"
    if not what.startswith("not run: "):
        path, name = what.split("::")
        assert f"def {name}(" in (ROOT / path).read_text()


def test_each_block_that_is_no_command_is_listed_with_a_reason() -> None:
    assert {block.language for block in pages.blocks()} == {"sh", *pages.OTHERS}
    marks = sum(len(re.findall(r"^ *```", page.read_text(), re.MULTILINE)) for page in PAGES)
    assert marks == 2 * len(list(pages.blocks()))


@pytest.mark.parametrize(("pattern", "what"), pages.LINES)
def test_each_line_of_the_list_is_for_a_command_that_is_there(pattern: str, what: str) -> None:
    assert [line for line in pages.lines_of(what) if re.match(pattern, line)]


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_links_lead_somewhere(page: Path) -> None:
    for link in links(page):
        path, _, anchor = link.partition("#")
        target = page.parent / path if path else page
        assert target.exists(), link
        assert not anchor or anchor in anchors(target), link


def test_readme_names_every_page() -> None:
    named = {link.removeprefix("docs/") for link in links(ROOT / "README.md")}
    listed = set(re.findall(r": (\S+\.md)$", (ROOT / "mkdocs.yml").read_text(), re.MULTILINE))
    assert {page.name for page in (ROOT / "docs").glob("*.md")} == listed
    assert listed - named == {"index.md"}


@pytest.mark.parametrize("reason", list(Reason))
def test_each_reason_is_explained_in_its_words_and_says_what_to_do(reason: Reason) -> None:
    _, heading, rest = TROUBLESHOOTING.partition(f"\n### `{reason}`\n")
    assert heading
    entry = " ".join(rest.partition("\n#")[0].split())
    assert entry.startswith(reason.sentence)
    assert "*What to do:* " in entry


def test_no_reason_is_explained_that_there_is_not() -> None:
    explained = re.findall(r"^### `(\w+)`$", TROUBLESHOOTING, re.MULTILINE)
    assert explained == [reason.value for reason in Reason]


def test_each_setting_is_in_the_table() -> None:
    settings = (ROOT / "tests" / "contracts" / "environment.txt").read_text().split()
    table = re.findall(r"^\| `([A-Z_]+)` \|", (ROOT / "docs" / "deployment.md").read_text(), re.MULTILINE)
    assert sorted(table) == sorted(settings)


def test_the_map_names_files_that_are_there() -> None:
    paths = {path for path in re.findall(r"`([\w./-]+)`", CONTRIBUTING) if re.match(r"\w+/|\w+\.(py|md|toml)$", path)}
    assert len(paths) > 150
    assert [path for path in sorted(paths) if not (ROOT / path).exists()] == []


def test_the_map_names_every_test_file() -> None:
    there = {str(path.relative_to(ROOT)) for path in (ROOT / "tests").rglob("test_*.py")}
    assert there - set(re.findall(r"`(tests/[\w./]+)`", CONTRIBUTING)) == set()
