"""The pages that people read: README.md, CONTRIBUTING.md and docs/. Their fenced blocks, and what runs them."""

from __future__ import annotations

import re
import textwrap
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

ROOT = Path(__file__).resolve().parents[1]
PAGES = (ROOT / "README.md", ROOT / "CONTRIBUTING.md", *sorted((ROOT / "docs").glob("*.md")))
_BLOCK = re.compile(r"^( *)```(\w*)\n(.*?)^\1```$", re.MULTILINE | re.DOTALL)

README_TEST = "tests/e2e/test_readme.py"
TERMINAL = f"{README_TEST}::test_every_command_at_a_terminal_does_what_it_says"
PACKAGES = "tests/test_packages.py::test_the_pages_name_the_packages_that_the_makefile_lists"
ROM = "tests/e2e/test_rom_whole_way.py::test_a_rom_is_built_flashed_read_back_and_booted_with_every_answer"
PROGRAMS = "tests/e2e/test_rescue_system.py::test_the_example_for_programs_enables_waits_and_logs_in"
MAKE_RUN = f"{README_TEST}::test_make_run_serves_from_a_fresh_clone_and_prints_a_password_that_logs_in"
MAKE_DOCS = "tests/e2e/test_docs_site.py::test_the_site_is_built_and_its_pages_ask_no_other_host"
_ROOT_ONLY = "changes the host, as root"
_THIS_RUN = "runs the tests or the linters: .ci/run calls it"
_MANAGE = r"\.venv/bin/python manage\.py "

#: What runs a line of a shell example: a test (file and name), or nothing, for a reason. The first that fits counts.
LINES: tuple[tuple[str, str], ...] = (
    (r"make run$", MAKE_RUN),
    # The same test: it listens on an address of its own.
    (r"RESCUESITE_BIND=\S+ make run$", MAKE_RUN),
    (r"make docs\b", MAKE_DOCS),
    (r"make setup$", "not run: `make run` does it first, and the test of that runs it"),
    (r"make (test|test-fast|test-fresh|lint)\b", f"not run: {_THIS_RUN}"),
    (r"apt-get install ", PACKAGES),
    (r"(adduser|install|cp|systemctl) ", f"not run: {_ROOT_ONLY}"),
    (rf"{_MANAGE}build_rescue_image$", "tests/e2e/test_rescue_system.py::rescued"),
    (rf"{_MANAGE}(build_rom|flash_rom) ", ROM),
    (rf"{_MANAGE}worker ", "not run: it runs until it is stopped; tests/e2e/test_rom_worker.py runs a worker"),
    (_MANAGE, TERMINAL),
    (r"curl \"http://192", f"{README_TEST}::test_a_person_can_ask_as_a_card_does"),
    (r"(export SITE=|api |api\(\) |until api |jq |ssh -o )", PROGRAMS),
    (r"wget -O - --post-data ", "not run: it is for a rescue system; tests/e2e/test_other_systems.py posts the same"),
)
#: Fenced blocks that are no commands, by the language that they name.
OTHERS = {
    "csv": f"a table: {TERMINAL} imports it",
    "text": "dnsmasq's configuration: tests/e2e/test_dhcp_script.py has QEMU's DHCP server name the same file",
}


class Block(NamedTuple):
    """A fenced block of a page."""

    page: Path
    language: str
    text: str

    def lines(self) -> list[str]:
        """Its lines; those that end with a backslash are put together."""
        joined = re.sub(r"\\\n\s*", "", self.text)
        return [line for line in joined.splitlines() if line.strip()]


def blocks() -> Iterator[Block]:
    for page in PAGES:
        for _, language, text in _BLOCK.findall(page.read_text()):
            yield Block(page, language, textwrap.dedent(text))


def shell_lines() -> list[str]:
    """The lines of all shell examples, in the order of the pages."""
    return [line for block in blocks() if block.language == "sh" for line in block.lines()]


def runs(line: str) -> str:
    """What runs a line, or why nothing does; empty for a line that is not in the list."""
    return next((what for pattern, what in LINES if re.match(pattern, line)), "")


def lines_of(test: str) -> list[str]:
    """The lines that a test runs."""
    return [line for line in shell_lines() if runs(line) == test]
