"""Models of the Hugging Face Hub, which here is a server on loopback."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
from paths import ROOT
from quick_tagger import NoNetworks
from small_hub import Files, SmallHub, small_hub

from zsl_tagger.errors import MissingExtraError, UserError
from zsl_tagger.evaluation.calibrate import CalibrateRun, calibrate
from zsl_tagger.images.preprocessing import Preprocessing
from zsl_tagger.search import library
from zsl_tagger.tagging import hub as ours
from zsl_tagger.tagging import model_folder, onnx_model
from zsl_tagger.tagging.hub import FILES, HubName, download, parse_name
from zsl_tagger.tagging.model_folder import (
    ModelConfig,
    ModelFolder,
    ModelFolderError,
    VocabularyLabel,
    write_config,
    write_labels,
)
from zsl_tagger.tagging.tagger import Tagger
from zsl_tagger.words.table import WordTable

pytest.importorskip("huggingface_hub")
from huggingface_hub import constants

REPO = "user/model"


@pytest.fixture
def hub(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[SmallHub]:
    """An empty hub in place of huggingface.co, and an empty cache."""
    with small_hub() as server:
        monkeypatch.setattr(constants, "ENDPOINT", server.url)
        monkeypatch.setattr(
            constants, "HUGGINGFACE_CO_URL_TEMPLATE", server.url + "/{repo_id}/resolve/{revision}/{filename}"
        )
        monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path / "cache"))
        monkeypatch.setattr(constants, "HF_TOKEN_PATH", str(tmp_path / "token"))
        monkeypatch.setenv("HF_TOKEN", "hf_made_for_the_test")
        model_folder._downloaded.cache_clear()
        yield server
        model_folder._downloaded.cache_clear()


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A model folder without networks, beside files that do not belong to it; taggers open it all the same."""
    monkeypatch.setattr(onnx_model, "OnnxModel", NoNetworks)
    path = tmp_path / "made"
    path.mkdir()
    write_config(path, ModelConfig(Preprocessing(32), word_dim=3, default_threshold=0.35))
    write_labels(path, [VocabularyLabel("dog", 0.5)])
    WordTable(["dog", "cat"], np.array([[3, 0, 4], [0, -5, 0]], np.int8)).save(path)
    for name in ("encoder.onnx", "decoder.onnx", "README.md"):
        (path / name).write_text(name)
    (path / "run").mkdir()
    for name in ("model.pkl", "pytorch_model.bin", "notes.json", "run/config.json", ".env"):
        (path / name).write_text("not of the model")
    return path


def files_of(folder: Path) -> Files:
    return {path.name: path.read_bytes() for path in folder.iterdir() if path.name in FILES}


def offline(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)


def test_a_model_is_pushed_and_loaded_again(hub: SmallHub, folder: Path, logged: pytest.LogCaptureFixture) -> None:
    commit = Tagger(folder).push_to_hub(REPO, private=True)
    assert hub.commits[REPO] == {commit: files_of(folder)}  # and nothing else of the folder
    loaded = Tagger.from_pretrained(REPO)
    assert loaded.folder.path.name == commit
    assert {path.name: path.read_bytes() for path in loaded.folder.path.iterdir()} == files_of(folder)
    assert loaded.folder.config == ModelFolder(folder).config
    assert logged.messages == [f"uploaded {folder} as hf:{REPO}@{commit}", f"model hf:{REPO}@{commit}"]


def test_a_model_of_the_hub_can_be_pushed_under_another_name(hub: SmallHub, folder: Path) -> None:
    hub.commit(REPO, files_of(folder))
    commit = Tagger.from_pretrained(REPO).push_to_hub("other/copy", revision="mine")
    assert hub.branches["other/copy"] == {"mine": commit}
    assert hub.commits["other/copy"][commit] == files_of(folder)


def test_a_link_out_of_the_folder_is_not_uploaded(hub: SmallHub, folder: Path, tmp_path: Path) -> None:
    (tmp_path / "secret").write_text("secret")
    (folder / "model.safetensors").symlink_to(tmp_path / "secret")
    with pytest.raises(ModelFolderError, match=r"'model\.safetensors' would be uploaded from another folder"):
        Tagger(folder).push_to_hub(REPO)
    assert hub.requests == []


def test_a_revision_is_a_branch_a_tag_or_a_commit(hub: SmallHub, folder: Path, tmp_path: Path) -> None:
    first = hub.commit(REPO, files_of(folder))
    hub.branches[REPO]["v1"] = first
    second = hub.commit(REPO, {**files_of(folder), "README.md": b"the second"})
    for revision, commit in (("v1", first), (first, first), ("main", second), (None, second)):
        found = Tagger.from_pretrained(REPO, revision=revision, cache_dir=tmp_path / "own")
        assert found.folder.path.name == commit
    assert not (tmp_path / "cache").exists()
    with pytest.raises(ModelFolderError, match=r"^user/model has no revision 'v2': give a branch, a tag or a whole"):
        Tagger.from_pretrained(REPO, revision="v2")


def test_only_files_of_a_model_folder_are_downloaded(hub: SmallHub, folder: Path, tmp_path: Path) -> None:
    hostile = (
        "model.pkl",
        "pytorch_model.bin",
        "sub/config.json",
        "../../../../escape.json",
        "config.json/../../x.txt",
    )
    hub.commit(REPO, {**dict.fromkeys(hostile, b"no"), **files_of(folder), "/etc/words.txt": b"", "a\nb.onnx": b""})
    download(HubName(REPO))
    assert hub.downloaded() == sorted(files_of(folder))
    named = {path.name for path in tmp_path.rglob("*") if path.is_file() and folder not in path.parents}
    assert named.isdisjoint({"model.pkl", "pytorch_model.bin", "escape.json", "x.txt", "b.onnx"})


def test_what_is_in_the_cache_is_used_offline(hub: SmallHub, folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    hub.commit(REPO, files_of(folder))
    online = download(HubName(REPO))
    offline(monkeypatch)
    hub.requests.clear()
    assert download(HubName(REPO)) == online
    assert download(HubName(REPO, online.name)) == online
    assert hub.requests == []
    with pytest.raises(
        ModelFolderError, match=r"^user/other is not completely in the cache, .* \(HF_HUB_OFFLINE is set\): .*folder$"
    ):
        download(HubName("user/other"))


@pytest.mark.usefixtures("hub")
def test_a_hub_that_does_not_answer(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(constants, "ENDPOINT", "http://127.0.0.1:9")
    with pytest.raises(
        ModelFolderError, match=r"^user/model is not completely in the cache, .* \(http://127\.0\.0\.1:9: .*refused"
    ):
        download(HubName(REPO))


def test_a_repository_that_is_no_model_folder(hub: SmallHub, folder: Path) -> None:
    hub.commit("user/text", {"config.json": b"{}", "model.safetensors": b"large"})
    with pytest.raises(
        ModelFolderError, match=r"^user/text@\w{40} on the hub is not a zsl-tagger model; missing files: labels\.json$"
    ):
        download(HubName("user/text"))
    assert hub.downloaded() == ["config.json"]  # the large file is not fetched for nothing
    hub.commit("user/empty", {"weights.bin": b""})
    with pytest.raises(ModelFolderError, match=r"missing files: config\.json, labels\.json$"):
        download(HubName("user/empty"))
    hub.commit("user/partial", {name: text for name, text in files_of(folder).items() if name != "encoder.onnx"})
    with pytest.raises(ModelFolderError, match=r"is incomplete; missing files: encoder\.onnx$"):
        Tagger.from_pretrained("user/partial")


def test_access_is_refused(hub: SmallHub, folder: Path) -> None:
    with pytest.raises(
        ModelFolderError, match=r"^no model user/none on http://127\S+, or it is private: check the name"
    ):
        download(HubName("user/none"))
    hub.commit(REPO, files_of(folder))
    hub.refused[REPO] = "GatedRepo"
    with pytest.raises(
        ModelFolderError, match=r"^user/model is gated: accept its terms at http://127\S+/user/model and"
    ):
        download(HubName(REPO))
    hub.refused[REPO] = ""
    with pytest.raises(ModelFolderError, match="403") as caught:
        download(HubName(REPO))
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("repo", ["", "a/b/c", "../model", "user/mo del", "user/model\n"])
def test_what_is_no_name_of_a_model(hub: SmallHub, repo: str) -> None:
    expected = f"expected the name of a model on the hub, user/model, got {repo!r}"
    with pytest.raises(ModelFolderError, match=f"^{re.escape(expected)}$"):
        Tagger.from_pretrained(repo)
    assert hub.requests == []


def test_names_for_the_command_line() -> None:
    assert parse_name("hf:user/model") == HubName("user/model", None)
    assert parse_name("hf:user/model@refs/pr/1") == HubName("user/model", "refs/pr/1")
    assert str(HubName("user/model", "v1")) == "user/model@v1"


def test_a_name_of_the_hub_stands_for_a_model_folder(
    hub: SmallHub, folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    first = hub.commit(REPO, files_of(folder))
    hub.commit(REPO, {**files_of(folder), "README.md": b"the second"})
    assert ModelFolder(Path(f"hf:{REPO}@{first}")).path.name == first
    asked = len(hub.requests)
    assert ModelFolder(f"hf:{REPO}@{first}").path.name == first
    assert len(hub.requests) == asked  # once a process
    monkeypatch.chdir(tmp_path)
    folder.rename("hf:local")
    assert ModelFolder("hf:local").path == Path("hf:local")


def test_a_model_of_the_hub_is_not_written_to(hub: SmallHub, tmp_path: Path) -> None:
    run = CalibrateRun(model=Path(f"hf:{REPO}"), data=tmp_path)
    with pytest.raises(
        UserError,
        match=r"^hf:user/model is in the cache of the hub and cannot be changed: give another folder to write to$",
    ):
        calibrate(run)
    assert hub.requests == []


@pytest.mark.slow
def test_an_export_does_not_write_to_a_model_of_the_hub(hub: SmallHub) -> None:
    export = pytest.importorskip("zsl_tagger.export.run")  # it imports torch, which takes seconds
    with pytest.raises(UserError, match=r"^hf:user/model is in the cache of the hub"):
        export.export(export.ExportRun(model=Path(f"hf:{REPO}")))
    assert hub.requests == []


def test_an_index_keeps_the_commit_of_its_model(
    hub: SmallHub, folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(library, "_fingerprint", lambda *_: "the same")
    hub.commit(REPO, files_of(folder))
    with library.Library.open(tmp_path / "index", f"hf:{REPO}") as made:
        made.add(tmp_path / "cache" / "*.jpg")
    hub.commit(REPO, {**files_of(folder), "README.md": b"the second"})
    hub.requests.clear()
    with library.Library.open(tmp_path / "index") as found:
        assert found._meta.model == str(made._tagger.folder.path)
    assert hub.requests == []


def test_without_the_package(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "huggingface_hub", None)
    for call in (lambda: Tagger.from_pretrained(REPO), lambda: ours.upload(ROOT, HubName(REPO), False, "")):
        with pytest.raises(MissingExtraError, match=r'^huggingface_hub is not installed: .* pip install "\.\[hub\]"$'):
            call()


@pytest.mark.slow
@pytest.mark.usefixtures("hub")
def test_scores_are_the_same_from_the_hub(
    evidence_folder: Path, examples: Path, logged: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    """With a progress bar, which a terminal has."""
    monkeypatch.setattr(sys.stderr, "isatty", lambda: True)
    local = Tagger(evidence_folder)
    local.push_to_hub(REPO)
    loaded = Tagger.from_pretrained(REPO)
    labels = local.words.words[:5]
    one, other = (each.scores(each.encode(examples / "cat.jpg"), labels) for each in (local, loaded))
    assert one.tolist() == other.tolist()
    assert len(logged.messages) == 2


@pytest.mark.slow
def test_the_command_takes_a_model_of_the_hub(
    hub: SmallHub, evidence_folder: Path, examples: Path, tmp_path: Path
) -> None:
    commit = hub.commit(REPO, files_of(evidence_folder))
    environment = {**os.environ, "HF_ENDPOINT": hub.url, "HF_HOME": str(tmp_path / "home")}

    def tag(model: str, **more: str) -> subprocess.CompletedProcess[str]:
        command = [sys.executable, "-m", "zsl_tagger", "tag", str(examples / "cat.jpg"), "--model", model]
        return subprocess.run(command, capture_output=True, text=True, cwd=tmp_path, env={**environment, **more})

    first = tag(f"hf:{REPO}@main")
    assert (first.returncode, first.stderr) == (0, f"note: model hf:{REPO}@{commit}\n")
    assert tag(f"hf:{REPO}@main", HF_HUB_OFFLINE="1").stdout == first.stdout
    for model, message in ((f"hf:{REPO}@v9", "has no revision 'v9'"), ("hf:user/none", "no model user/none on")):
        failed = tag(model)
        assert failed.returncode == 2
        assert message in failed.stderr
        assert len(failed.stderr.splitlines()) == 1
