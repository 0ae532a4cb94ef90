"""Test the data of the plot in the model card."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest

from zsl_tagger.packaged.calibration import Reliability
from zsl_tagger.packaged.reliability import complete_truth, write_reliability


def test_bins_have_mean_score_and_share_of_correct_entries() -> None:
    found = Reliability.of(np.array([0.0, 0.1, 0.6, 0.7, 1.0]), np.array([True, False, True, True, False]), bins=4)
    assert found.counts.tolist() == [2, 0, 2, 1]
    np.testing.assert_allclose(found.scores, [0.05, 0, 0.65, 1.0])
    np.testing.assert_allclose(found.true, [0.5, 0, 1, 0])
    np.testing.assert_allclose(found.error, (2 * 0.45 + 2 * 0.35 + 1 * 1.0) / 5)


def test_complete_labels_come_from_their_folder(tmp_path: Path) -> None:
    folder = tmp_path / "more" / "coco_captions"
    folder.mkdir(parents=True)
    said = {"classes": ["dog", "cat", "bus"], "labels": {"b.jpg": ["bus", "dog"], "c.jpg": ["cat"]}}
    (folder / "labels.json").write_text(json.dumps(said))
    files = ["scenes/b.jpg", "more/coco_captions/a.jpg", "more/coco_captions/b.jpg"]
    numbers, names, truth = complete_truth(tmp_path, files)
    assert (numbers, names) == ([1, 2], ["dog", "cat", "bus"])
    np.testing.assert_array_equal(truth, [[False, False, False], [True, False, True]])
    assert complete_truth(tmp_path, files[:1])[0] == []  # without reading the file


@pytest.mark.plots
def test_plot_has_a_legend_with_errors(tmp_path: Path) -> None:
    write_reliability(tmp_path / "a.svg", {"COCO": Reliability.of(np.array([0.25, 0.75]), np.array([False, True]))})
    assert "COCO: error 0.250" in (tmp_path / "a.svg").read_text()
