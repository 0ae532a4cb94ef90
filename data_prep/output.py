"""The folder a run writes: claimed for one data set, each file whole or not there."""

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
    """A folder to hold one data set.

    A run with the same ``identity`` may go on in it; another data set is refused unless ``overwrite``, and so are other
    files. Nothing is written before :meth:`claimed`. Files are written beside their name and then renamed.
    ``dataset.json`` is taken away first and written last, so a folder that has it is whole.

    Attributes:
        identity: what is prepared, as JSON data.
        resumed: what a former run has found in the image files still holds: it read the same source.

    Raises:
        UserError: the folder holds something else, or cannot be written.
    """

    def __init__(self, path: Path, identity: JsonObject, overwrite: bool = False):
        self.path = path
        self.identity: JsonObject = json.loads(json.dumps(identity))  # as it will be read back
        with write_errors(path):
            if path.exists() and not path.is_dir():
                raise NotADirectoryError(errno.ENOTDIR, "it is a file, expected a folder", str(path))
            holder = _read_identity(path)
            self.resumed = holder is not None and _source(holder) == _source(self.identity)
            if not overwrite and holder != self.identity and path.exists():
                self._refuse(holder)

    def _refuse(self, holder: JsonObject | None) -> None:
        """Raise, unless there is nothing that would be lost."""
        if holder is not None and any((self.path / name).exists() for name in (DATA_FILE, INFO_FILE)):
            raise UserError(
                f"{self.path} holds another data set ({difference(holder, self.identity)}): "
                "give another folder, or --overwrite"
            )
        names = sorted(entry.name for entry in self.path.iterdir() if not entry.name.startswith("."))
        if names and holder is None:
            raise UserError(
                f"{self.path} holds other files ({', '.join(names[:3])}{', ...' if len(names) > 3 else ''}): "
                "give an empty or new folder, or --overwrite"
            )

    @contextlib.contextmanager
    def claimed(self) -> Iterator[None]:
        """Make the folder, say whose it is, and keep other runs out of it meanwhile.

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
        """From here on the folder is not whole, until :meth:`finish`. Another data set's benchmark file goes too."""
        with write_errors(self.path):
            if benchmark := _held_benchmark(self.path):
                benchmark.unlink()
            self._remove_released()
            (self.path / INFO_FILE).unlink(missing_ok=True)

    def _remove_released(self) -> None:
        folder = self.path / RELEASED_FOLDER
        if folder.is_symlink() or not folder.is_dir():
            return
        for file in (folder / DATA_FILE, folder / VECTORS_FILE, *folder.glob("benchmark*.json")):
            file.unlink(missing_ok=True)
        with contextlib.suppress(OSError):  # it holds other files, such as links to the images
            folder.rmdir()

    def finish(self, info: JsonObject) -> None:
        """Write ``dataset.json``: the folder is whole."""
        self.write_json(INFO_FILE, {**info, "prepared_by": self.identity})
        with write_errors(self.path):
            (self.path / CLAIM_FILE).unlink(missing_ok=True)


def _held_benchmark(folder: Path) -> Path | None:
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
    """Return a function that writes the rows into an open file."""

    def write(file: BinaryIO) -> None:
        text = io.TextIOWrapper(file, encoding="utf-8", newline="")
        writer = csv.writer(text, lineterminator="\n")
        writer.writerow(header)
        writer.writerows(rows)
        text.detach()

    return write
