"""Features of a frozen backbone, computed once: training then costs what the head costs.

``view 0`` of a photo is the photo as tagging sees it, each further one a draw of the run's augmentation that is kept.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Generator, Iterator, Sequence
from dataclasses import asdict, replace
from pathlib import Path

import numpy as np
import torch

from zsl_tagger.errors import UserError
from zsl_tagger.images.preprocessing import ImageError
from zsl_tagger.model.tagger_model import TaggerModel
from zsl_tagger.system.files import write_whole
from zsl_tagger.system.threads import available_cores, map_in_order
from zsl_tagger.training.augment import Augment
from zsl_tagger.training.checkpoint import fingerprint
from zsl_tagger.training.config import TrainConfig
from zsl_tagger.training.data import Part, Shown

CHUNK = 256  # photos a file: what an interrupted run may lose
AT_ONCE = 16  # photos through the backbone

PLAIN = TrainConfig(flip=0.0)

#: Settings that a view's pixels depend on.
_PIXELS = ("image_size", "crop", "crop_scale", "flip", "rand_augment", "cutout", "seed")


class FeatureCache:
    """Backbone tokens of photos on disk, float16, ``CHUNK`` photos a file; what is there is not computed again.

    Args:
        folder: holds caches of several settings, each in a folder of its own.
        rows: the data set's images to be cached, ascending.

    Attributes:
        faults: images that could not be read, and why; they have no features.
    """

    def __init__(self, folder: Path, root: Path, paths: Sequence[str], rows: np.ndarray, config: TrainConfig):
        self.folder, self.root, self.paths, self.rows, self.config = folder, root, paths, rows, config
        self.faults: dict[int, str] = {}
        self._open: dict[Path, np.ndarray] = {}

    def fill(self, model: TaggerModel, rank: int, processes: int, progress: Callable[[int], None]) -> None:
        """Compute what is missing, each process its share of the files; ``progress`` is told how many are done."""
        self.folder = self.folder / self._key(model)
        self.folder.mkdir(parents=True, exist_ok=True)
        jobs = [(view, start) for view in range(self.config.cache_views) for start in range(0, len(self.rows), CHUNK)]
        own = [job for job in jobs[rank::processes] if not self._path(*job).exists()]
        done = 0
        for view, start in own:
            for count in self._compute(model, view, start):
                done += count
                progress(done)

    def read_faults(self) -> None:
        """Learn which photos have no features; to be called when every process has filled its share."""
        for start in range(0, len(self.rows), CHUNK):
            content = json.loads(self._path(0, start).with_suffix(".json").read_text(encoding="utf-8"))
            self.faults.update({int(self.rows[start + int(place)]): reason for place, reason in content.items()})

    def features(self, row: int, view: int) -> np.ndarray:
        """float16 ``(L, C)``."""
        place = int(np.searchsorted(self.rows, row))
        path = self._path(view, place - place % CHUNK)
        if path not in self._open:
            self._open[path] = np.load(path, mmap_mode="r")
        return self._open[path][place % CHUNK]

    def stack(self, rows: Sequence[int], views: Sequence[int]) -> torch.Tensor:
        """float16 ``(b, L, C)``."""
        return torch.from_numpy(np.stack([self.features(*pair) for pair in zip(rows, views, strict=True)]))

    def shown(self, ordered: Iterator[Part]) -> Generator[Shown, None, None]:
        """Each part with one view of each of its photos, drawn by seed, step and place."""
        for part in ordered:
            random = np.random.default_rng([self.config.seed, 29, part.step])
            views = random.integers(0, self.config.cache_views, self.config.batch_size)[part.places]
            yield Shown(part, self.stack(part.rows.tolist(), views.tolist()), part.rows, [])

    def _key(self, model: TaggerModel) -> str:
        pixels = asdict(self.config)
        files = [self.root / self.paths[row] for row in self.rows]
        sizes = [file.stat().st_size if file.is_file() else -1 for file in files]
        listed = [f"{self.paths[row]}\0{size}" for row, size in zip(self.rows, sizes, strict=True)]
        settings = json.dumps({name: pixels[name] for name in _PIXELS})
        key = fingerprint([settings, *listed], *model.backbone.state_dict().values())
        return f"{model.backbone.name}-{key}"

    def _path(self, view: int, start: int) -> Path:
        return self.folder / f"view{view}.{start // CHUNK:05d}.npy"

    def _photos(self, start: int) -> np.ndarray:
        return self.rows[start : start + CHUNK]

    def _compute(self, model: TaggerModel, view: int, start: int) -> Iterator[int]:
        """Write one file; yields how many photos were done since the last time."""
        photos = self._photos(start)
        augment = Augment(self.config if view else replace(PLAIN, image_size=self.config.image_size))
        device = model.mean.device

        def read(row: int) -> np.ndarray | str:
            try:
                # Augmentation draws from the process's generators: on one thread only, then.
                return augment(self.root / self.paths[row], (self.config.seed, 31, view, int(row)))
            except ImageError as error:
                return str(error)

        read_ahead = map_in_order(read, photos.tolist(), available_cores() if view == 0 else 1)
        blocks, faults, waiting = [], {}, []
        for place in range(len(photos)):
            pixels = next(read_ahead)
            if isinstance(pixels, str):
                faults[place] = pixels
                pixels = np.zeros((self.config.image_size, self.config.image_size, 3), np.uint8)
            waiting.append(pixels)
            if len(waiting) == AT_ONCE or place == len(photos) - 1:
                with torch.inference_mode():
                    tokens = model.backbone_tokens(torch.from_numpy(np.stack(waiting)).to(device))  # (b, L, C)
                blocks.append(tokens.float().clamp(-65504, 65504).half().cpu().numpy())
                yield len(waiting)
                waiting = []
        if view == 0:  # before the file that says "done"
            write_whole(self._path(0, start).with_suffix(".json"), json.dumps(faults).encode())
        whole = np.concatenate(blocks)
        write_whole(self._path(view, start), lambda file: np.save(file, whole), to_disk=False)


def check_room(folder: Path, photos: int, tokens: int, channels: int, views: int) -> None:
    """Raise a UserError where the disk has no room for the features."""
    import shutil

    folder.mkdir(parents=True, exist_ok=True)
    needed, free = 2 * photos * tokens * channels * views, shutil.disk_usage(folder).free
    if needed > free:
        raise UserError(
            f"the features of {photos:,} photos need {needed / 1e9:.1f} GB in {folder}, {free / 1e9:.1f} GB are free: "
            "set a lower cache_views or image_size, cache_views=0, or give --cache a folder with room"
        )
