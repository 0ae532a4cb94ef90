"""Download and upload model folders on the Hugging Face Hub, with the huggingface_hub package.

Only the files of :data:`FILES` are transferred, by their exact names: nothing pickled, no code, no subfolders.
huggingface_hub is imported when one of these functions is called.
"""

from __future__ import annotations

import logging
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, NamedTuple

from zsl_tagger.errors import first_line, require, some
from zsl_tagger.tagging.model_folder import (
    CONFIG_FILE,
    HUB_PREFIX,
    LABELS_FILE,
    NETWORK_FILES,
    OTHER_FILES,
    ModelFolderError,
)

logger = logging.getLogger(__name__)

#: Small files that every model folder has. They are downloaded first: without them the large ones are not needed.
NEEDED = (CONFIG_FILE, LABELS_FILE)
#: All files of a model folder.
FILES = (
    *NEEDED,
    *NETWORK_FILES,
    *OTHER_FILES,
    "model.safetensors",
    "reliability.svg",
)


class HubName(NamedTuple):
    """Name of a model on the hub: ``user/model``, and a branch, tag or commit (None: the main branch)."""

    repo: str
    revision: str | None = None

    def __str__(self) -> str:
        return self.repo if self.revision is None else f"{self.repo}@{self.revision}"


def parse_name(name: str) -> HubName:
    """Split ``hf:user/model`` or ``hf:user/model@revision``."""
    repo, _, revision = name.removeprefix(HUB_PREFIX).partition("@")
    return HubName(repo, revision or None)


def download(name: HubName, cache_dir: str | Path | None = None) -> Path:
    """Return the folder of a model in the cache of huggingface_hub, downloading missing files.

    If the hub cannot be reached, or with ``HF_HUB_OFFLINE=1``, the cached copy is used.

    Args:
        cache_dir: None for the default cache.

    Raises:
        ModelFolderError: there is no such model, access is denied, the repository is not a model folder, or the hub
            cannot be reached and the model is not cached.
        MissingExtraError: huggingface_hub is not installed.
    """
    require("huggingface_hub", "hub")
    folder = _snapshot(name, NEEDED, cache_dir)
    pinned = HubName(name.repo, folder.name)  # a snapshot's folder is named by its commit
    missing = [file for file in NEEDED if not (folder / file).is_file()]
    if missing:
        raise ModelFolderError(f"{pinned} on the hub is not a zsl-tagger model; missing files: {', '.join(missing)}")
    _snapshot(pinned, FILES, cache_dir)
    logger.info("model %s%s", HUB_PREFIX, pinned)
    logger.debug("%s is in %s", pinned, folder)
    return folder


def upload(folder: Path, name: HubName, private: bool, message: str) -> HubName:
    """Upload the files of a model folder as one commit, and return the name with that commit.

    Args:
        name: repository, which is created if needed, and branch.
        private: make a new repository visible to its owner only.
        message: commit message.

    Raises:
        ModelFolderError: the hub cannot be reached or rejects the upload, or a file is a link to outside the folder.
        MissingExtraError: huggingface_hub is not installed.
    """
    require("huggingface_hub", "hub")
    from huggingface_hub import HfApi

    files = [file for file in FILES if (folder / file).is_file()]
    _check_links(folder, files)
    api = HfApi()
    with _hub_errors(name, "uploaded"):
        api.create_repo(name.repo, private=private or None, exist_ok=True)
        commit = api.upload_folder(
            repo_id=name.repo,
            revision=name.revision,
            folder_path=folder,
            allow_patterns=files,
            commit_message=message,
        )
    uploaded = HubName(name.repo, commit.oid)
    logger.info("uploaded %s as %s%s", folder, HUB_PREFIX, uploaded)
    return uploaded


def _check_links(folder: Path, files: Sequence[str]) -> None:
    """Raise a ModelFolderError if a link would upload a file from elsewhere; links into the cache are fine."""
    own = folder.resolve(), folder.resolve().parent.parent / "blobs"  # where the cache keeps file contents
    out = [file for file in files if (folder / file).resolve().parent not in own]
    if out:
        raise ModelFolderError(
            f"{folder}: {some(out)} would be uploaded from another folder through a symbolic link: "
            "replace the link with the file"
        )


def _snapshot(name: HubName, files: Sequence[str], cache_dir: str | Path | None) -> Path:
    from huggingface_hub import snapshot_download

    with _hub_errors(name, "downloaded"):
        return Path(
            snapshot_download(
                name.repo,
                revision=name.revision,
                cache_dir=cache_dir,
                allow_patterns=list(files),
                tqdm_class=None if logger.isEnabledFor(logging.INFO) and sys.stderr.isatty() else _no_bar(),
            )
        )


def _no_bar() -> Any:
    """Return a progress bar class that shows nothing, for log files and quiet programs."""
    from tqdm.auto import tqdm

    class NoBar(tqdm):
        def __init__(self, *args: Any, **options: Any):
            options.pop("name", None)  # an argument of huggingface_hub's own bar
            super().__init__(*args, **{**options, "disable": True})

    return NoBar


@contextmanager
def _hub_errors(name: HubName, done: str) -> Iterator[None]:
    """Convert exceptions of huggingface_hub to a ModelFolderError with a one-line message."""
    from huggingface_hub import constants, errors

    try:
        yield
    except errors.HFValidationError:
        raise ModelFolderError(f"expected the name of a model on the hub, user/model, got {name.repo!r}") from None
    except errors.GatedRepoError:
        raise ModelFolderError(
            f"{name.repo} is gated: accept its terms at {constants.ENDPOINT}/{name.repo} and log in with "
            "`hf auth login`"
        ) from None
    except errors.RevisionNotFoundError:
        raise ModelFolderError(
            f"{name.repo} has no revision {name.revision!r}: give a branch, a tag or a whole commit hash"
        ) from None
    except errors.RepositoryNotFoundError:
        raise ModelFolderError(
            f"no model {name.repo} on {constants.ENDPOINT}, or it is private: check the name, or log in with "
            "`hf auth login`"
        ) from None
    except errors.LocalEntryNotFoundError as error:
        offline = isinstance(error.__cause__, errors.OfflineModeIsEnabled)
        why = "HF_HUB_OFFLINE is set" if offline else f"{constants.ENDPOINT}: {first_line(_cause(error))}"
        raise ModelFolderError(
            f"{name} is not completely in the cache, and the hub cannot be reached ({why}): go online once, or "
            "give a folder"
        ) from None
    except (errors.HTTPError, OSError, ValueError) as error:
        raise ModelFolderError(f"{name} cannot be {done}: {constants.ENDPOINT}: {first_line(error)}") from None


def _cause(error: BaseException) -> Exception:
    return error.__cause__ if isinstance(error.__cause__, Exception) else Exception(str(error))
