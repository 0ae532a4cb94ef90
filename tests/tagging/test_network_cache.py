"""Optimised networks are kept for the next start, and never in the way of it."""

from __future__ import annotations

import os
import shutil
import stat
import subprocess
import sys
import tempfile
from pathlib import Path

import numpy as np
import onnxruntime
import pytest
from paths import ROOT

from zsl_tagger.assets import PACKAGED
from zsl_tagger.tagging import network_cache
from zsl_tagger.tagging.model_folder import DECODER_FILE, ModelFolderError
from zsl_tagger.tagging.network_cache import (
    CACHE_VARIABLE,
    KEPT,
    NETWORK_FILE,
    WEIGHTS_FILE,
    open_on_processor,
    open_optimised,
)
from zsl_tagger.tagging.onnx_model import open_session


@pytest.fixture
def network(tmp_path: Path) -> Path:
    return Path(shutil.copy(PACKAGED / DECODER_FILE, tmp_path / "decoder.onnx"))


@pytest.fixture
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The folder of the copies; the small network of these tests is kept too."""
    monkeypatch.setenv(CACHE_VARIABLE, str(tmp_path / "cache"))
    monkeypatch.setattr(network_cache, "LEAST_BYTES", 1)
    return tmp_path / "cache" / "networks"


@pytest.fixture
def opened(monkeypatch: pytest.MonkeyPatch) -> list[Path]:
    """The files that ONNX Runtime opened, one after another."""
    paths: list[Path] = []

    def spied(path: Path, options: onnxruntime.SessionOptions) -> onnxruntime.InferenceSession:
        paths.append(path)
        return plain(path, options)

    plain = network_cache._open
    monkeypatch.setattr(network_cache, "_open", spied)
    return paths


def answers(session: onnxruntime.InferenceSession) -> list[bytes]:
    random = np.random.default_rng(0)
    width = session.get_inputs()[0].shape[2]
    inputs = {
        node.name: random.normal(size=(1, 144, width) if node.name == "tokens" else (7, width)).astype(np.float32)
        for node in session.get_inputs()
    }
    return [answer.tobytes() for answer in session.run(None, inputs)]


def options() -> onnxruntime.SessionOptions:
    made = onnxruntime.SessionOptions()
    made.log_severity_level = 4
    return made


def test_the_second_start_opens_the_copy_and_answers_to_the_bit(network: Path, cache: Path, opened: list[Path]) -> None:
    first = answers(open_optimised(network, options()))
    (copy,) = cache.iterdir()
    second = answers(open_optimised(network, options()))
    assert opened == [network, copy / NETWORK_FILE]
    assert first == second == answers(open_on_processor(network, options()))


def test_options_are_given_back_as_they_came(network: Path, cache: Path) -> None:
    used = options()
    before = used.graph_optimization_level
    for _ in range(2):
        open_optimised(network, used)
        assert (used.graph_optimization_level, used.optimized_model_filepath) == (before, "")
    assert len(list(cache.iterdir())) == 1


@pytest.mark.parametrize("file", [NETWORK_FILE, WEIGHTS_FILE])
@pytest.mark.parametrize("damage", ["empty", "other", "half", "missing"])
def test_a_damaged_copy_is_made_again(network: Path, cache: Path, opened: list[Path], file: str, damage: str) -> None:
    right = answers(open_optimised(network, options()))
    (folder,) = cache.iterdir()
    copy, damaged = folder / NETWORK_FILE, folder / file
    whole = damaged.read_bytes()
    damaged.unlink()
    if damage != "missing":
        damaged.write_bytes({"empty": b"", "other": b"not a network", "half": whole[: len(whole) // 2]}[damage])
    assert answers(open_optimised(network, options())) == right
    assert opened == [network, copy, network]
    assert answers(open_optimised(network, options())) == right
    assert opened[3:] == [copy]


def test_a_copy_of_an_older_version_makes_room(network: Path, cache: Path) -> None:
    open_optimised(network, options())
    (copy,) = cache.iterdir()
    shutil.rmtree(copy)
    copy.write_bytes(b"one file with everything")
    open_optimised(network, options())
    assert {file.name for file in copy.iterdir()} == {NETWORK_FILE, WEIGHTS_FILE}


def test_weights_in_another_file_are_refused_with_a_cache_too(tmp_path: Path, cache: Path) -> None:
    open_optimised(Path(shutil.copy(PACKAGED / DECODER_FILE, tmp_path / "decoder.onnx")), options())
    (copy,) = cache.iterdir()
    with pytest.raises(ModelFolderError, match="stores weights in another file, which is not opened"):
        open_optimised(copy / NETWORK_FILE, options())


def test_another_network_at_the_same_path_has_a_copy_of_its_own(network: Path, cache: Path) -> None:
    """Even of the same size and time."""
    open_optimised(network, options())
    status = network.stat()
    content = bytearray(network.read_bytes())
    place = content.index(np.float32(some_weight(content)).tobytes())
    content[place : place + 4] = np.float32(0.5).tobytes()
    network.with_suffix(".new").write_bytes(content)
    network.with_suffix(".new").replace(network)
    os.utime(network, ns=(status.st_atime_ns, status.st_mtime_ns))
    expected = answers(open_on_processor(network, options()))
    assert answers(open_optimised(network, options())) == expected
    assert len(list(cache.iterdir())) == 2


def some_weight(content: bytearray) -> np.float32:
    """Return some weight of the network: four bytes in the middle of it that are a usual number."""
    weights = np.frombuffer(content, np.float32, count=1000, offset=len(content) // 8 * 4)
    return weights[(np.abs(weights) > 1e-3) & (np.abs(weights) < 1)][0]


def refused(*_: object, **__: object) -> None:
    raise PermissionError(13, "Permission denied")


@pytest.mark.parametrize("reason", ["empty", "a file", "others may write", "read-only"])
def test_without_a_folder_of_ones_own_nothing_is_kept(
    network: Path, cache: Path, reason: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    if reason == "empty":
        monkeypatch.setenv(CACHE_VARIABLE, "")
    elif reason == "a file":
        cache.parent.write_text("not a folder")
    elif reason == "others may write":
        cache.mkdir(parents=True)
        cache.chmod(0o777)
    else:
        monkeypatch.setattr(tempfile, "mkdtemp", refused)
    assert answers(open_optimised(network, options())) == answers(open_on_processor(network, options()))
    assert not cache.is_dir() or list(cache.iterdir()) == []


def test_a_full_disk_costs_nothing(network: Path, cache: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(*_: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(Path, "rename", full)
    assert answers(open_optimised(network, options())) == answers(open_on_processor(network, options()))
    assert list(cache.iterdir()) == []


def test_what_is_no_network_is_an_error_as_without_a_cache(network: Path, cache: Path) -> None:
    network.write_bytes(b"not a network")
    with pytest.raises(Exception, match="Protobuf parsing failed"):
        open_optimised(network, options())
    assert list(cache.iterdir()) == []


def test_small_networks_are_not_kept(network: Path, cache: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(network_cache, "LEAST_BYTES", network.stat().st_size + 1)
    open_optimised(network, options())
    assert not cache.exists()


def test_only_the_copies_used_last_are_kept(network: Path, cache: Path, opened: list[Path]) -> None:
    networks = [Path(shutil.copy(network, network.with_name(f"{number}.onnx"))) for number in range(KEPT + 1)]
    for number, one in enumerate(networks[:KEPT]):
        open_optimised(one, options())
        for copy in cache.glob(f"{number}-*"):
            os.utime(copy, (number, number))
    open_optimised(networks[0], options())  # the oldest, used again
    open_optimised(networks[KEPT], options())
    left = sorted(copy.name.partition("-")[0] for copy in cache.iterdir())
    assert left == ["0", *map(str, range(2, KEPT + 1))]
    assert opened[KEPT] not in networks  # its copy


def test_sessions_that_are_not_to_be_kept_are_not(network: Path, cache: Path) -> None:
    open_session(network, 1)
    assert not cache.exists()
    open_session(network, 1, keep=True)
    assert len(list(cache.iterdir())) == 1


@pytest.mark.slow
def test_commands_share_one_private_copy(tmp_path: Path, examples: Path) -> None:
    """Two at once, then one more: the same output, one copy of each large network that others cannot read."""
    command = [sys.executable, "-m", "cli", "tag", str(examples / "cat.jpg"), "--format", "jsonl"]
    environment = {**os.environ, CACHE_VARIABLE: str(tmp_path)}

    def start() -> subprocess.Popen[bytes]:
        return subprocess.Popen(command, cwd=ROOT, env=environment, stdout=subprocess.PIPE)

    outputs = [process.communicate()[0] for process in (start(), start())]
    outputs.append(start().communicate()[0])
    assert outputs[0] == outputs[1] == outputs[2] != b""
    copies = list((tmp_path / "networks").iterdir())
    assert len(copies) == 2  # of the encoder and of the detector
    for folder in (*copies, tmp_path / "networks"):
        assert stat.S_IMODE(folder.stat().st_mode) == 0o700
