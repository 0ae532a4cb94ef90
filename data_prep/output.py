"""Write the output folder of a run: reserved for one data set, with complete files only."""

from __future__ import annotations

import contextlib
import csv
import errno
import io
import json
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import Any, BinaryIO

from zsl_tagger.datasets.format import CLAIM_FILE, DATA_FILE, INFO_FILE, RELEASED_FOLDER, VECTORS_FILE
from zsl_tagger.errors import UserError, difference
from zsl_tagger.system.files import json_bytes, locked, parse_json, write_errors, write_whole
from zsl_tagger.system.json_record import Json, JsonObject


class OutputFolder:
    """An output folder for one data set.

    A run with the same ``identity`` may continue in it; a folder with another data set or other files is refused unless
    ``overwrite`` is set. Nothing is written before :meth:`claimed`. Files get their final names once they are complete.
    ``dataset.json`` is deleted first and written last, so a folder that has it is complete.

    Attributes:
        identity: source and options, as JSON data.
        resumed: image checks of an earlier run are valid, since it read the same source.

    Raises:
        UserError: the folder contains something else, or cannot be written.
    """

    def __init__(self, path: Path, identity: JsonObject, overwrite: bool = False):
        self.path = path
        self.identity: JsonObject = json.loads(json.dumps(identity))  # as it will be read from the file
        with write_errors(path):
            if path.exists() and not path.is_dir():
                raise NotADirectoryError(errno.ENOTDIR, "expected a folder, got a file", str(path))
            holder = _read_identity(path)
            self.resumed = holder is not None and _source(holder) == _source(self.identity)
            if not overwrite and holder != self.identity and path.exists():
                self._refuse(holder)

    def _refuse(self, holder: JsonObject | None) -> None:
        """Raise a UserError if anything would be lost."""
        if holder is not None and any((self.path / name).exists() for name in (DATA_FILE, INFO_FILE)):
            raise UserError(
                f"{self.path} contains another data set ({difference(holder, self.identity)}): "
                "give another folder, or --overwrite"
            )
        names = sorted(entry.name for entry in self.path.iterdir() if not entry.name.startswith("."))
        if names and holder is None:
            raise UserError(
                f"{self.path} contains other files ({', '.join(names[:3])}{', ...' if len(names) > 3 else ''}): "
                "give an empty or new folder, or --overwrite"
            )

    @contextlib.contextmanager
    def claimed(self) -> Iterator[None]:
        """Create the folder, record its data set, and lock out other runs for the duration of the block.

        Raises:
            UserError: another run is writing there.
        """
        with write_errors(self.path):
            self.path.mkdir(parents=True, exist_ok=True)
        with locked(self.path):
            self.write_json(CLAIM_FILE, self.identity)
            yield

    def write(self, name: str, content: bytes | Callable[[BinaryIO], Any]) -> None:
        write_whole(self.path / name, content)

    def write_json(self, name: str, content: Any) -> None:
        write_whole(self.path / name, json_bytes(content))

    def start_replacing(self) -> None:
        """Mark the folder as incomplete until :meth:`finish`. Delete the benchmark file of another data set."""
        with write_errors(self.path):
            if benchmark := _existing_benchmark(self.path):
                benchmark.unlink()
            self._remove_released()
            (self.path / INFO_FILE).unlink(missing_ok=True)

    def _remove_released(self) -> None:
        folder = self.path / RELEASED_FOLDER
        if folder.is_symlink() or not folder.is_dir():
            return
        for file in (folder / DATA_FILE, folder / VECTORS_FILE, *folder.glob("benchmark*.json")):
            file.unlink(missing_ok=True)
        with contextlib.suppress(OSError):  # it contains other files, such as links to the images
            folder.rmdir()

    def finish(self, info: JsonObject) -> None:
        """Write ``dataset.json``, which marks the folder as complete."""
        self.write_json(INFO_FILE, {**info, "prepared_by": self.identity})
        with write_errors(self.path):
            (self.path / CLAIM_FILE).unlink(missing_ok=True)


def _existing_benchmark(folder: Path) -> Path | None:
    """Return the seen/unseen file of the data set in a folder."""
    try:
        name = parse_json((folder / INFO_FILE).read_bytes())["benchmark"]
        content = parse_json((folder / name).read_bytes())
    except (OSError, ValueError, KeyError, TypeError, RecursionError):
        return None
    return folder / name if Path(name).name == name and isinstance(content, dict) and "test class" in content else None


def _source(identity: JsonObject) -> list[Json]:
    return [identity.get(key) for key in ("prepare", "source", "image_root")]


def _read_identity(folder: Path) -> JsonObject | None:
    for name, key in ((INFO_FILE, "prepared_by"), (CLAIM_FILE, None)):
        try:
            content = parse_json((folder / name).read_bytes())
            return dict(content[key] if key else content)
        except (OSError, ValueError, KeyError, TypeError):
            continue
    return None


def csv_rows(header: list[str], rows: Iterable[Iterable[str]]) -> Callable[[BinaryIO], None]:
    """Return a function that writes the rows to an open file."""

    def write(file: BinaryIO) -> None:
        text = io.TextIOWrapper(file, encoding="utf-8", newline="")
        writer = csv.writer(text, lineterminator="\n")
        writer.writerow(header)
        writer.writerows(rows)
        text.detach()

    return write
