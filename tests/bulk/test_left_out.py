"""Test how ``tag`` reports the files that it left out. ``--remove`` finds photos as tagging does, without a model."""

from __future__ import annotations

from pathlib import Path

import pytest

from zsl_tagger.bulk.options import TagRun
from zsl_tagger.bulk.run import run_tagging
from zsl_tagger.images import finding


def notes_of(logged: pytest.LogCaptureFixture, folder: Path, *exclude: str) -> list[str]:
    logged.clear()
    run = TagRun(paths=[str(folder)], sidecar="txt", remove=True, exclude_path=exclude)
    assert run_tagging(run) == 0
    return logged.messages


def test_other_files_are_counted_at_the_end_and_excluded_ones_are_not_looked_at(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, logged: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(finding, "reads_raw", lambda: False)
    for name in (
        "a.jpg",
        "a.jpg.txt",
        "b.CR2",
        "film.mp4",
        "raw/c.jpg",
        "raw/c.jpg.txt",
        "raw/c.arw",
        "@eaDir/d.jpg",
        "@eaDir/e.db",
    ):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).touch()
    film, install = "1 file skipped, not photos: .mp4", 'in a clone of zsl-tagger, run pip install ".[raw]"'
    raw = f"2 raw photos skipped (.arw, .cr2): {install}"
    assert notes_of(logged, tmp_path) == ["sidecars: 2 unchanged", f"{film}; {raw}"]
    raw = f"1 raw photo skipped (.cr2): {install}"
    assert notes_of(logged, tmp_path, "raw") == ["sidecars: 1 unchanged", f"{film}; {raw}"]
    assert notes_of(logged, tmp_path, "raw", "*.CR2", "film.*") == ["sidecars: 1 unchanged"]
