"""Raw photos: their preview is read upright like any photo; without the extra, the error names it."""

from __future__ import annotations

import os
import sys
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from raw_photo import dng

from zsl_tagger.images import finding
from zsl_tagger.images.finding import Selection, find_images
from zsl_tagger.images.preprocessing import ImageError, Preprocessing, load_array, load_photo

QUARTERS = np.zeros((48, 64, 3), np.uint8)  # red, green, blue and black
QUARTERS[:24, :32], QUARTERS[:24, 32:], QUARTERS[24:, :32] = (255, 0, 0), (0, 255, 0), (0, 0, 255)


def test_without_the_extra_a_raw_photo_names_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "rawpy", None)
    path = tmp_path / "a.CR2"
    path.write_bytes(b"II*\0")
    with pytest.raises(
        ImageError, match=r'^raw photos need rawpy, which is not installed: .* pip install "\.\[raw\]"$'
    ):
        load_array(path, Preprocessing(16))


@pytest.mark.parametrize(("there", "found", "left_out"), [(True, ["a.NEF", "b.jpg"], 0), (False, ["b.jpg"], 1)])
def test_raw_photos_of_a_folder_are_found_where_they_can_be_read(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, there: bool, found: list[str], left_out: int
) -> None:
    monkeypatch.setattr(finding, "reads_raw", lambda: there)
    for name in ("a.NEF", "a.NEF.txt", "b.jpg"):
        (tmp_path / name).touch()
    selection = Selection()
    assert [Path(str(one)).name for one in find_images([str(tmp_path)], selection=selection)] == found
    assert selection.left_out.total() == left_out


class TestWithTheExtra:
    @pytest.fixture(autouse=True)
    def _rawpy(self) -> None:
        pytest.importorskip("rawpy", reason="the raw extra")

    @pytest.mark.parametrize("compressed", [True, False])
    @pytest.mark.parametrize(
        ("orientation", "turn"),
        [(1, None), (3, Image.Transpose.ROTATE_180), (6, Image.Transpose.ROTATE_270), (8, Image.Transpose.ROTATE_90)],
    )
    def test_the_preview_is_read_upright(
        self, tmp_path: Path, orientation: int, turn: Image.Transpose | None, compressed: bool
    ) -> None:
        preview = Image.fromarray(QUARTERS)
        path = Path(os.fsdecode(os.fsencode(tmp_path) + b"/caf\xe9.DNG"))
        path.write_bytes(dng(preview, orientation, compressed))
        upright = preview if turn is None else preview.transpose(turn)
        photo = load_photo(path, 64)
        assert photo.size == upright.size
        assert np.abs(np.asarray(photo, int) - np.asarray(upright, int)).mean() < 10
        assert load_array(path, Preprocessing(32)).shape == (32, 32, 3)

    @pytest.mark.parametrize("content", [b"no raw photo", b"II*\0" + bytes(60), b"\xff\xd8\xff\xe0" + bytes(60)])
    def test_what_is_no_raw_photo_is_an_error_of_that_photo(self, tmp_path: Path, content: bytes) -> None:
        (tmp_path / "a.cr2").write_bytes(content)
        with pytest.raises(ImageError, match=r"^(not a raw photo that LibRaw|a raw photo without a preview) "):
            load_array(tmp_path / "a.cr2", Preprocessing(16))

    def test_a_broken_preview_is_an_error_of_that_photo(self, tmp_path: Path) -> None:
        content = bytearray(dng(Image.fromarray(QUARTERS)))
        content[10:600] = bytes(590)
        (tmp_path / "a.dng").write_bytes(content)
        with pytest.raises(ImageError, match=r"^[^\n]+$"):
            load_array(tmp_path / "a.dng", Preprocessing(16))

    def test_cut_anywhere_it_is_read_or_an_error(self, tmp_path: Path) -> None:
        content = dng(Image.fromarray(QUARTERS))
        for length in range(1, len(content), 397):
            (tmp_path / "a.dng").write_bytes(content[:length])
            try:
                assert load_array(tmp_path / "a.dng", Preprocessing(16)).shape == (16, 16, 3)
            except ImageError as error:
                assert "\n" not in str(error)  # noqa: PT017
