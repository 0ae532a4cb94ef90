"""Compute the features of a frozen backbone once, so that training only has to run the head.

View 0 of a photo is the photo as tagging sees it; the other views are augmented.

The tokens of a convolutional backbone carry no position. So, except at the borders, the tokens of four photos at half
size (or nine at a third) are those of a mosaic of the photos: mosaics cost nothing and can be recombined at each step.
"""

from __future__ import annotations

import json
import logging
import shutil
import tempfile
from collections.abc import Callable, Generator, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict, replace
from pathlib import Path

import numpy as np
import torch
from accelerate import Accelerator

from zsl_tagger.errors import UserError
from zsl_tagger.export.networks import ExportError, write_backbone
from zsl_tagger.images.preprocessing import ImageError, load_array
from zsl_tagger.model.tagger_model import TaggerModel
from zsl_tagger.system.files import parse_json, write_whole
from zsl_tagger.system.progress import Progress, phase
from zsl_tagger.system.threads import available_cores, default_workers, map_in_order
from zsl_tagger.tagging.model_folder import ModelFolderError
from zsl_tagger.tagging.onnx_model import open_session
from zsl_tagger.training.augment import Augment
from zsl_tagger.training.checkpoint import fingerprint
from zsl_tagger.training.config import TrainConfig
from zsl_tagger.training.data import LoadedPart, Part, photos_of

logger = logging.getLogger(__name__)

#: uint8 images (b, S, S, 3) -> tokens float32 (b, L, C).
TokensOf = Callable[[np.ndarray], np.ndarray]

PHOTOS_PER_FILE = 256  # an interrupted run loses the features of at most this many photos
BATCH_SIZE = 16  # photos through the backbone at a time
MIN_PHOTOS_TO_EXPORT = 100  # from this number on, exporting the backbone to ONNX saves more time than it takes

#: Settings that affect the pixels of a view.
_PIXELS = (
    "image_size", "resize", "crop_pct", "interpolation", "crop", "crop_scale", "flip", "rand_augment", "cutout", "seed",
)  # fmt: skip


class FeatureCache:
    """Store backbone tokens of photos on disk, in float16, and reuse existing files.

    Args:
        folder: contains a folder for each combination of settings.
        rows: the data set's images to cache, ascending.

    Attributes:
        faults: unreadable images and the reasons; they have no features.
    """

    def __init__(self, folder: Path, root: Path, paths: Sequence[str], rows: np.ndarray, config: TrainConfig):
        self.folder, self.root, self.paths, self.rows, self.config = folder, root, paths, rows, config
        self.faults: dict[int, str] = {}
        self._open: dict[Path, np.ndarray] = {}

    def fill(self, model: TaggerModel, accelerator: Accelerator) -> None:
        """Compute the missing files, divided among processes, and find out which photos are unreadable."""
        with Progress("features", unit="photos", shown=accelerator.is_main_process) as progress:
            self._fill(model, accelerator.process_index, accelerator.num_processes, progress)
        accelerator.wait_for_everyone()
        self._read_faults()

    def _fill(self, model: TaggerModel, rank: int, processes: int, progress: Progress) -> None:
        self.folder = self.folder / self._key(model)
        self.folder.mkdir(parents=True, exist_ok=True)
        jobs = [
            (layout, view, start)
            for layout in self.config.layouts
            for view in range(self.config.cache_views)
            for start in range(0, len(self.rows), PHOTOS_PER_FILE)
        ]
        missing = [job for job in jobs[rank::processes] if not self._path(*job).exists()]
        logger.debug("features in %s: %d of %d files are missing", self.folder, len(missing), len(jobs))
        if not missing:
            return
        progress.total = sum(len(self._photos(start)) for _, _, start in missing)
        photos = self.config.cache_views * len(self.config.layouts) * len(self.rows)  # in a resumed run too
        with fast_backbone(model, self.config.sides, photos) as tokens_of:
            for layout, view, start in missing:
                for count in self._compute(tokens_of, layout, view, start):
                    progress.advance(count)

    def _read_faults(self) -> None:
        for start in range(0, len(self.rows), PHOTOS_PER_FILE):
            content = parse_json(self._path(1, 0, start).with_suffix(".json").read_text(encoding="utf-8"))
            self.faults.update({int(self.rows[start + int(place)]): reason for place, reason in content.items()})

    def features(self, row: int, view: int, layout: int = 1) -> np.ndarray:
        """Return the tokens of a photo at its size in a mosaic of ``layout`` photos (1: alone), float16 ``(L, C)``."""
        place = int(np.searchsorted(self.rows, row))
        path = self._path(layout, view, place - place % PHOTOS_PER_FILE)
        if path not in self._open:
            self._open[path] = np.load(path, mmap_mode="r")
        return self._open[path][place % PHOTOS_PER_FILE]

    def stack(self, rows: Sequence[int]) -> torch.Tensor:
        """Return the tokens of photos as tagging sees them, float16 ``(b, L, C)``."""
        return torch.from_numpy(np.stack([self.features(row, 0) for row in rows]))

    def load(self, ordered: Iterator[Part]) -> Generator[LoadedPart, None, None]:
        """Yield each part with a random view of each of its photos, which depends on seed, step and place."""
        for part in ordered:
            random = np.random.default_rng([self.config.seed, 29, part.step])
            size = (self.config.batch_size, *part.rows.shape[1:])
            views = random.integers(0, self.config.cache_views, size)[part.places]  # (b,) or (b, MOST_PHOTOS)
            images = [self._tokens_of(*pair) for pair in zip(part.rows, views, strict=True)]
            yield LoadedPart(part, torch.from_numpy(np.stack(self._drop_tokens(images, part))), part.rows, [])

    def _tokens_of(self, image: np.ndarray, views: np.ndarray) -> np.ndarray:
        """Return the tokens of a photo, or the concatenated tokens of a mosaic's photos."""
        photos = photos_of(image)
        pairs = zip(photos.tolist(), np.atleast_1d(views).tolist(), strict=False)  # a mosaic's row is padded with -1
        return np.concatenate([self.features(row, view, len(photos)) for row, view in pairs])

    def _drop_tokens(self, images: list[np.ndarray], part: Part) -> list[np.ndarray]:
        """Keep the same number of random tokens of each image."""
        if self.config.layouts == (1,) and not self.config.token_dropout:
            return images
        count = self._tokens_to_keep()
        kept = []
        for tokens, place in zip(images, part.places.tolist(), strict=True):
            random = np.random.default_rng([self.config.seed, 41, part.step, place])
            kept.append(tokens[random.permutation(len(tokens))[:count]])
        return kept

    def _tokens_to_keep(self) -> int:
        """Return the number of tokens to use of every image: mosaics may have more or fewer than a photo."""
        row = int(self.rows[0])
        fewest = min(layout * len(self.features(row, 0, layout)) for layout in self.config.layouts)
        return max(1, round((1 - self.config.token_dropout) * fewest))

    def _key(self, model: TaggerModel) -> str:
        pixels = asdict(self.config)
        files = [self.root / self.paths[row] for row in self.rows]
        sizes = [file.stat().st_size if file.is_file() else -1 for file in files]
        listed = [f"{self.paths[row]}\0{size}" for row, size in zip(self.rows, sizes, strict=True)]
        projection = [] if model.backbone.projection == "none" else [model.backbone.projection]
        settings = json.dumps([{name: pixels[name] for name in _PIXELS}, model.normalization, *projection])
        key = fingerprint([settings, *listed], *model.backbone.state_dict().values())
        return f"{model.backbone.name}-{key}"

    def _path(self, layout: int, view: int, start: int) -> Path:
        mosaic = "" if layout == 1 else f"-mosaic{layout}"
        return self.folder / f"view{view}{mosaic}.{start // PHOTOS_PER_FILE:05d}.npy"

    def _photos(self, start: int) -> np.ndarray:
        return self.rows[start : start + PHOTOS_PER_FILE]

    def _compute(self, tokens_of: TokensOf, layout: int, view: int, start: int) -> Iterator[int]:
        """Write one file; yield the number of photos processed since the last yield."""
        photos = self._photos(start)
        size = self.config.sides[self.config.layouts.index(layout)]
        plain = replace(self.config.preprocessing, image_size=size)
        augment = Augment(replace(self.config, image_size=size))

        def read(row: int) -> np.ndarray | str:
            try:
                if view == 0:
                    return load_array(self.root / self.paths[row], plain)
                # Augmentation uses the global random generators, so it runs in one thread.
                return augment(self.root / self.paths[row], (self.config.seed, 31, view, int(row)))
            except ImageError as error:
                return str(error)

        read_ahead = map_in_order(read, photos.tolist(), default_workers() if view == 0 else 1)
        blocks, faults, waiting = [], {}, []
        for place in range(len(photos)):
            pixels = next(read_ahead)
            if isinstance(pixels, str):
                faults[place] = pixels
                pixels = np.zeros((size, size, 3), np.uint8)
            waiting.append(pixels)
            if len(waiting) == BATCH_SIZE or place == len(photos) - 1:
                tokens = tokens_of(np.stack(waiting))  # (b, L, C)
                blocks.append(tokens.clip(-65504, 65504).astype(np.float16))
                yield len(waiting)
                waiting = []
        if view == 0 and layout == 1:  # before the features, whose file marks the photos as done
            write_whole(self._path(1, 0, start).with_suffix(".json"), json.dumps(faults).encode())
        whole = np.concatenate(blocks)
        write_whole(self._path(layout, view, start), lambda file: np.save(file, whole), to_disk=False)


@contextmanager
def fast_backbone(model: TaggerModel, sizes: Sequence[int], photos: int) -> Iterator[TokensOf]:
    """Provide the fastest function that computes the backbone's tokens on the model's device.

    On a CPU and for at least ``MIN_PHOTOS_TO_EXPORT`` photos that is ONNX Runtime, which is three to four times as fast
    as torch (EfficientNet-Lite2, two cores). Torch is used if the export fails, or if its tokens of random images
    differ from torch's by more than 1e-3.

    Args:
        sizes: sides S of the images.
        photos: number of images.

    Yields:
        function: uint8 ``(b, S, S, 3)`` -> float32 ``(b, L, C)``.
    """
    model.eval()

    def in_torch(images: np.ndarray) -> np.ndarray:
        with torch.inference_mode():
            return model.backbone_tokens(torch.from_numpy(images).to(model.mean.device)).float().cpu().numpy()

    if model.mean.device.type != "cpu" or photos < MIN_PHOTOS_TO_EXPORT:
        yield in_torch
        return
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "backbone.onnx"
        try:
            with phase("exporting the backbone to ONNX, for faster features"):
                write_backbone(model, path, max(sizes))
            session = open_session(path, available_cores())
        except (ExportError, ModelFolderError, OSError):  # OSError: no space for temporary files
            yield in_torch
            return

        def in_onnx_runtime(images: np.ndarray) -> np.ndarray:
            tokens: np.ndarray = session.run(None, {"images": images})[0]
            return tokens

        yield in_onnx_runtime if _outputs_agree(in_torch, in_onnx_runtime, sizes) else in_torch


def _outputs_agree(in_torch: TokensOf, in_onnx_runtime: TokensOf, sizes: Sequence[int]) -> bool:
    """Return whether both compute the same tokens at every size; some exports only work at one size."""
    random = np.random.default_rng(0)
    for size in sizes:
        images = random.integers(0, 256, (2, size, size, 3), np.uint8)
        expected = in_torch(images)
        try:
            tokens = in_onnx_runtime(images)
        except Exception:  # onnxruntime raises errors of several types if shapes do not fit
            return False
        if tokens.shape != expected.shape or not np.allclose(tokens, expected, rtol=1e-3, atol=1e-3):
            return False
    return True


def check_disk_space(folder: Path, photos: int, model: TaggerModel, config: TrainConfig) -> None:
    """Raise a UserError if the disk has no space for the features."""
    values = 0
    with torch.inference_mode():
        for side in config.sides:
            pixels = torch.zeros(1, side, side, 3, dtype=torch.uint8, device=model.mean.device)
            values += model.eval().backbone_tokens(pixels).numel()  # (1, L, C)
    folder.mkdir(parents=True, exist_ok=True)
    needed, free = 2 * photos * values * config.cache_views, shutil.disk_usage(folder).free
    if needed > free:
        raise UserError(
            f"the features of {photos:,} photos need {needed / 1e9:.1f} GB in {folder}, {free / 1e9:.1f} GB are free: "
            "lower cache_views or image_size, set cache_views=0, or give --cache a folder on a disk with more space"
        )
