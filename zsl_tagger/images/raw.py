"""Read the preview that cameras embed in raw photos, with LibRaw (rawpy, the ``raw`` extra).

The sensor data are not developed: that takes seconds, and the preview shows what the photographer saw.
"""

from __future__ import annotations

import io
from functools import cache
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from PIL import ExifTags, Image

from zsl_tagger.errors import require
from zsl_tagger.images.opening import IMAGE_SUFFIXES, ImageError

RAW_SUFFIXES = frozenset(
    {
        *(".3fr", ".ari", ".arw", ".bay", ".cap", ".cr2", ".cr3", ".crw", ".dcr", ".dcs", ".dng", ".drf", ".erf"),
        *(".fff", ".gpr", ".iiq", ".k25", ".kdc", ".mdc", ".mef", ".mos", ".mrw", ".nef", ".nrw", ".orf", ".pef"),
        *(".ptx", ".pxn", ".r3d", ".raf", ".raw", ".rw2", ".rwl", ".rwz", ".sr2", ".srf", ".srw", ".x3f"),
    }
)
#: Suffixes of everything that can be read with all extras.
PHOTO_SUFFIXES = IMAGE_SUFFIXES | RAW_SUFFIXES

_ORIENTATIONS = {3: 3, 5: 8, 6: 6}  # LibRaw's orientation -> EXIF orientation


@cache
def reads_raw() -> bool:
    """Return whether raw photos can be read."""
    return find_spec("rawpy") is not None


def embedded_preview(path: Path) -> bytes:
    """Return the largest preview in a raw photo as an image file with EXIF orientation.

    Raises:
        ImageError: rawpy is not installed, or the photo has no preview.
    """
    require("rawpy", "raw", "raw photos")
    import rawpy  # only where such a photo turns up: it takes time

    with path.open("rb") as file:  # LibRaw cannot open names that are not UTF-8
        try:
            with rawpy.imread(file) as raw:
                preview = raw.extract_thumb()
                turn = _ORIENTATIONS.get(raw.sizes.flip, 1)
        except (rawpy.LibRawNoThumbnailError, rawpy.LibRawUnsupportedThumbnailError):
            raise ImageError("a raw photo without a preview that can be read: export it as JPEG first") from None
        except rawpy.LibRawError:
            raise ImageError("not a raw photo that LibRaw can read") from None
    if preview.format == rawpy.ThumbFormat.JPEG:  # LibRaw wrote the orientation into it
        return bytes(preview.data)
    return _as_png(preview.data, turn)


def _as_png(pixels: Any, turn: int) -> bytes:
    """Return pixels (H, W, 3) as a PNG file with EXIF orientation."""
    exif = Image.Exif()
    exif[ExifTags.Base.Orientation] = turn
    file = io.BytesIO()
    Image.fromarray(pixels).save(file, "PNG", exif=exif, compress_level=0)
    return file.getvalue()
