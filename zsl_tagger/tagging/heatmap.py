"""Where the decoder looked for a label: attention -> heat map -> picture.

A map is the attention of the label's query over the places of the photo (ML-Decoder, section 3.2), mean over the
heads, less the same for words in general: attention as it is goes first to places that draw every query, which says
nothing of this one. ``benchmarks/heatmaps.py`` measures both.
"""

from __future__ import annotations

import math
import os
import re
from collections.abc import Sequence
from pathlib import Path

import numpy as np
from PIL import Image

from zsl_tagger.errors import UserError
from zsl_tagger.images.preprocessing import Box, Preprocessing, in_pixels, load_small
from zsl_tagger.system.files import folder_inside, write_errors, write_whole

#: Longer side of an overlay, in pixels.
OVERLAY_SIDE = 800
#: Pictures a photo without ``--top-k``: with --threshold 0 every word of the vocabulary is a tag.
MAPS_A_PHOTO = 10

_GLOW = np.array([255, 120, 0], np.float32)  # orange: rare in photos, and read by the colour-blind
_NAME_LENGTH = 200  # bytes of a label in a file name; disks take 255


def relative_maps(attention: np.ndarray, usual: np.ndarray) -> np.ndarray:
    """Attention of labels -> where each was looked for more than words in general.

    Args:
        attention: float32 ``(K, L)``, mean over heads, each row sums to 1; L places in rows of a square.
        usual: float32 ``(L,)``, the mean of the same over many words.

    Returns:
        float32 ``(K, R, R)`` with ``R * R = L``, 0..1: smoothed over neighbours (1, 2, 1 each way), what is below the
        usual cut to 0, and each map over its largest value. 0 everywhere where a label was looked for as any other.

    Raises:
        UserError: the places are no square: the tokens of several feature maps.
    """
    side = math.isqrt(attention.shape[-1])
    if side * side != attention.shape[-1]:
        raise UserError(
            f"this model has no heat maps: its {attention.shape[-1]} tokens are not one square map of places"
        )
    more = (attention - usual).reshape(-1, side, side)  # (K, R, R)
    more = np.maximum(_smooth(_smooth(more).swapaxes(1, 2)).swapaxes(1, 2), 0)
    return more / np.maximum(more.max(axis=(1, 2), keepdims=True), 1e-12)


def _smooth(maps: np.ndarray) -> np.ndarray:
    """Along the rows ``(K, R, C)``, with the border repeated."""
    padded = np.pad(maps, ((0, 0), (1, 1), (0, 0)), mode="edge")  # (K, R + 2, C)
    return 0.25 * padded[:, :-2] + 0.5 * padded[:, 1:-1] + 0.25 * padded[:, 2:]


def overlay(photo: Image.Image, heat: np.ndarray, part: Box | None = None) -> Image.Image:
    """Return the photo, darkened and grey where the decoder looked less, with a glow where it looked.

    Args:
        photo: RGB, upright.
        heat: one map of :meth:`Tagger.heatmap`, float32 ``(R, R)`` in 0..1, stretched over the photo as the photo was
            squeezed to the square that the model reads.
        part: what of the photo the model sees, ``tagger.preprocessing.seen_part(*photo.size)``; None: all of it.
    """
    left, upper, right, lower = in_pixels(part or (0, 0, 1, 1), *photo.size)
    corner = (math.floor(left), math.floor(upper))
    size = (math.ceil(right) - corner[0], math.ceil(lower) - corner[1])
    spread = Image.new("F", photo.size)  # 0: the decoder saw nothing there
    spread.paste(Image.fromarray(heat.astype(np.float32)).resize(size, Image.Resampling.BICUBIC), corner)
    share = np.clip(np.asarray(spread), 0, 1)[..., None]  # (H, W, 1)
    colour = np.asarray(photo, np.float32)  # (H, W, 3)
    grey = np.asarray(photo.convert("L"), np.float32)[..., None]  # (H, W, 1)
    shown = share * colour + (1 - share) * 0.45 * grey
    return Image.fromarray((shown + 0.25 * share * (_GLOW - shown)).round().astype(np.uint8))


class HeatmapFolder:
    """Writes overlays: a folder for each photo, under its own path, with a picture for each tag.

    Args:
        folder: ``photos/a.jpg`` with the tag "dog" becomes ``folder/photos/a.jpg/dog.jpg``.
        inputs: what is tagged; a folder of pictures that lies among them would be tagged too.

    Raises:
        UserError: it cannot be written, or lies inside an input.
    """

    def __init__(self, folder: Path, inputs: Sequence[str]):
        self._folder = folder
        where = folder.resolve()
        for path in map(Path, inputs):
            if path.is_dir() and where.is_relative_to(path.resolve()):
                raise UserError(
                    f"the folder of heat maps {folder} lies in {path}, which is tagged: give one outside of it"
                )
        with write_errors(folder):
            folder.mkdir(parents=True, exist_ok=True)

    def write(self, path: str, labels: Sequence[str], heats: np.ndarray, preprocessing: Preprocessing) -> None:
        """Write the overlays of one photo, for K tags and their maps ``(K, R, R)``.

        Args:
            preprocessing: of the model, which may not see all of the photo.

        Raises:
            ImageError: the photo cannot be read.
            UserError: the overlays cannot be written.
        """
        photo = load_small(path, OVERLAY_SIDE)
        part = preprocessing.seen_part(*photo.size)
        folder = folder_inside(self._folder, _inside(path))
        for name, heat in zip(_file_names(labels), heats, strict=True):
            picture = overlay(photo, heat, part)
            write_whole(folder / name, lambda file, picture=picture: picture.save(file, "JPEG", quality=85), False)  # type: ignore[misc]


def _inside(path: str) -> Path:
    """Return the path of a photo as one below a folder: without a root, and without steps up."""
    whole = Path(os.path.abspath(path)) if ".." in Path(path).parts else Path(path)  # noqa: PTH100 - follows no link
    return whole.relative_to(whole.anchor)


def _file_names(labels: Sequence[str]) -> list[str]:
    """Return a file name for each label, all different also where a disk ignores case."""
    names: list[str] = []
    taken: set[str] = set()
    for label in labels:
        plain = re.sub(r"[^\w -]+", "_", label).encode()[:_NAME_LENGTH].decode(errors="ignore")
        stem = name = plain.strip() or "label"
        count = 1
        while name.lower() in taken:
            count += 1
            name = f"{stem} {count}"
        taken.add(name.lower())
        names.append(f"{name}.jpg")
    return names
