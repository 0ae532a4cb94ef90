"""One version, everywhere: pyproject.toml, the changelog, the citation; ``.ci/release`` refuses another tag."""

from __future__ import annotations

import re
import subprocess

import pytest
from paths import ROOT


def read(name: str) -> str:
    return (ROOT / name).read_text(encoding="utf-8")


def version() -> str:
    found = re.search(r'^version = "(.+)"$', read("pyproject.toml"), re.MULTILINE)
    assert found is not None
    return found[1]


def test_the_newest_version_of_the_changelog_is_the_package_s() -> None:
    headings = re.findall(r"^## \[(.+)\](.*)$", read("CHANGELOG.md"), re.MULTILINE)
    assert headings[0] == ("Unreleased", "")
    newest, date = headings[1]
    assert newest == version()
    assert re.fullmatch(r" - \d{4}-\d{2}-\d{2}", date)


def test_the_citation_names_the_version_and_its_date() -> None:
    fields = dict(re.findall(r"^(version|date-released): (.+)$", read("CITATION.cff"), re.MULTILINE))
    assert fields["version"] == version()
    assert f"## [{version()}] - {fields['date-released']}" in read("CHANGELOG.md")


def test_sections_of_the_changelog_are_those_of_keep_a_changelog() -> None:
    sections = re.findall(r"^### (.+)$", read("CHANGELOG.md"), re.MULTILINE)
    assert set(sections) <= {"Added", "Changed", "Deprecated", "Removed", "Fixed", "Security"}


@pytest.mark.parametrize("tag", ["v0.0.1", "0.2.0", "v0.2.0-rc1"])
def test_a_tag_of_another_version_is_refused(tag: str) -> None:
    result = subprocess.run(["bash", ROOT / ".ci" / "release", tag], capture_output=True, text=True, timeout=30)
    message = f"the tag is {tag}, but pyproject.toml has version {version()}: change one of them\n"
    assert (result.returncode, result.stderr) == (1, message)
