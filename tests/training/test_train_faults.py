"""Test training that is killed or stopped, runs out of disk or memory, or finds damaged images."""

from __future__ import annotations

import csv
import errno
import os
import resource
import shutil
import signal
import subprocess
import time
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from forked import run_cli, run_forked
from small_runs import animal_data, loss_curve, small_run, train_arguments, weights_of
from typer.testing import CliRunner

import cli
from zsl_tagger.datasets.read import load_dataset
from zsl_tagger.errors import UserError
from zsl_tagger.export import model_writer
from zsl_tagger.model.tagger_model import TaggerModel
from zsl_tagger.system.files import locked
from zsl_tagger.tagging.tagger import Tagger
from zsl_tagger.training import finish, trainer
from zsl_tagger.training import run as run_module
from zsl_tagger.training.checkpoint import read_checkpoint
from zsl_tagger.training.features import FeatureCache
from zsl_tagger.training.run import train
from zsl_tagger.training.trainer import CHECKPOINT_FILE

#: Everything that draws: dropout, images, queries, labels; a checkpoint between the ends of epochs, which have 4 steps.
SETTINGS = (
    "epochs=3", "checkpoint_every=3", "dropout=0.2", "ema=0.9", "random_queries=2", "query_noise=0.1",
    "query_dropout=0.2", "crop=random", "workers=1", "lr=1e-3",
)  # fmt: skip
CACHED = ("freeze=true", "cache_views=2", *SETTINGS)

pytestmark = [pytest.mark.usefixtures("one_torch_thread", "few_exports"), pytest.mark.slow]


@pytest.fixture(scope="module", autouse=True)
def _last_checkpoint_is_kept() -> Iterator[None]:
    """Keep it as ``last.pt``, because the model's weights may come from a better step before an interruption."""

    def remove(folder: Path, names: tuple[str, ...]) -> None:
        if CHECKPOINT_FILE in names:
            shutil.copy(folder / CHECKPOINT_FILE, folder / "last.pt")
        finish.remove_scratch(folder, names)

    with pytest.MonkeyPatch.context() as patched:
        patched.setattr(run_module, "remove_scratch", remove)
        yield


@pytest.fixture(scope="module")
def undisturbed(tagged: Path, tmp_path_factory: pytest.TempPathFactory) -> Callable[[tuple[str, ...]], Path]:
    """Return the model folder of an uninterrupted run with these settings."""
    folder = tmp_path_factory.mktemp("undisturbed")

    def made(settings: tuple[str, ...]) -> Path:
        out = folder / settings[0].partition("=")[0]
        if not out.exists():
            train(small_run(tagged, out, *settings))
        return out

    return made


def command(*arguments: str) -> tuple[int, str, str]:
    """Run ``zsl-tagger train`` in this process; return exit status, stdout and stderr."""
    result = CliRunner().invoke(cli.app, ["train", "--recipe", "nus-wide-zsl", *arguments])
    if result.exception is not None and not isinstance(result.exception, SystemExit):
        raise result.exception
    return result.exit_code, result.stdout, result.stderr


def disturbed(at: int, what: Callable[[], object], *arguments: str) -> subprocess.CompletedProcess[str]:
    """Run ``zsl-tagger train`` in another process, which calls a function after the step ``at``."""
    return run_forked(_train_disturbed, at, what, *arguments)


def _train_disturbed(at: int, what: Callable[[], object], *arguments: str) -> None:
    after_step(pytest.MonkeyPatch(), at, what)
    run_cli("train", "--recipe", "nus-wide-zsl", *arguments)


def kill_itself() -> None:
    os.kill(os.getpid(), signal.SIGKILL)


def signal_all(number: signal.Signals) -> None:
    os.killpg(0, number)
    time.sleep(0.5)


def assert_same(out: Path, expected: Path) -> None:
    """Compare weights, at the best step and at the end, and optimiser states; each step was logged once."""
    found, wanted = weights_of(out), weights_of(expected)
    assert found.keys() == wanted.keys()
    assert [name for name in found if not (found[name] == wanted[name]).all()] == []
    ends = [read_checkpoint(folder / "run" / "last.pt") for folder in (out, expected)]
    for part in ("weights", "ema", "optimizer", "lr_schedule", "step", "best"):
        assert_equal(*(end[part] for end in ends))
    steps = [int(row[0]) for row in loss_curve(out)]
    assert steps == sorted(set(steps))
    expected_curve = {row[0]: row for row in loss_curve(expected)}
    assert {row[0]: row for row in loss_curve(out) if row[0] in expected_curve}.keys() == expected_curve.keys()
    assert Tagger(out).vocabulary


def assert_equal(one: Any, other: Any) -> None:
    """Compare nested states, with exactly equal tensors."""
    if isinstance(one, dict):
        assert one.keys() == other.keys()
        for name in one:
            assert_equal(one[name], other[name])
    elif isinstance(one, list):
        for pair in zip(one, other, strict=True):
            assert_equal(*pair)
    else:
        assert torch.equal(one, other) if isinstance(one, torch.Tensor) else one == other


def after_step(monkeypatch: pytest.MonkeyPatch, at: int, what: Callable[[], object]) -> None:
    original = trainer.Trainer._train_step

    def step(self: trainer.Trainer, shown: Any) -> torch.Tensor:
        total = original(self, shown)
        if self.step == at:
            what()
        return total

    monkeypatch.setattr(trainer.Trainer, "_train_step", step)


# --- kills and stops ------------------------------------------------------------------------------------------------


@pytest.mark.exports
@pytest.mark.parametrize("settings", [SETTINGS, CACHED], ids=["images", "features"])
def test_killed_run_resumes_with_the_same_result(
    settings: tuple[str, ...], tagged: Path, undisturbed: Callable[[tuple[str, ...]], Path], tmp_path: Path
) -> None:
    """It is killed in the middle of the second epoch, two steps after the last checkpoint."""
    arguments, out = train_arguments(tagged, tmp_path / "out", *settings), tmp_path / "out"
    assert disturbed(7, kill_itself, *arguments).returncode == -signal.SIGKILL
    assert read_checkpoint(out / "run" / "checkpoint.pt")["step"] == 6
    assert not (out / "config.json").exists()
    status, _, err = command(*arguments, "--resume")
    assert status == 0, err
    assert "note: resumed at step 6 of 12" in err
    assert_same(out, undisturbed(settings))
    assert loss_curve(out) == loss_curve(undisturbed(settings))
    assert command(*arguments, "--resume")[2] == f"note: {out} is a finished model: nothing to resume\n"


@pytest.mark.exports
@pytest.mark.parametrize(("number", "status"), [(signal.SIGTERM, 143), (signal.SIGINT, 130)])
def test_stopped_run_resumes_with_the_same_result(
    number: signal.Signals,
    status: int,
    tagged: Path,
    undisturbed: Callable[[tuple[str, ...]], Path],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    arguments, out = train_arguments(tagged, tmp_path / "out", *SETTINGS), tmp_path / "out"
    with monkeypatch.context() as patched:
        after_step(patched, 4, lambda: os.kill(os.getpid(), number))
        before = signal.getsignal(number)
        found, _, err = command(*arguments)
        assert signal.getsignal(number) == before
    assert found == status
    assert err.splitlines()[-1] == "stopped: step 5 is saved; run the same command with --resume to continue"
    assert "Traceback" not in err
    assert not (out / "config.json").exists()
    found, _, err = command(*arguments, "--resume")
    assert found == 0
    assert "note: resumed at step 5 of 12" in err
    assert_same(out, undisturbed(SETTINGS))


@pytest.mark.exports
@pytest.mark.parametrize(("number", "status"), [(signal.SIGTERM, 143), (signal.SIGINT, 130)])
def test_signal_to_the_process_group(
    number: signal.Signals, status: int, tagged: Path, undisturbed: Callable[[tuple[str, ...]], Path], tmp_path: Path
) -> None:
    """Send the signal as Ctrl-C in a terminal and batch systems do: the reader processes receive it too."""
    arguments = train_arguments(tagged, tmp_path / "out", *SETTINGS)
    result = disturbed(4, partial(signal_all, number), *arguments)
    assert "Traceback" not in result.stderr, result.stderr
    assert result.returncode == status
    assert result.stderr.splitlines()[-1] == "stopped: step 5 is saved; run the same command with --resume to continue"
    assert command(*arguments, "--resume")[0] == 0
    assert_same(tmp_path / "out", undisturbed(SETTINGS))


def test_truncated_line_of_metrics_is_dropped(tagged: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    arguments, out = train_arguments(tagged, tmp_path / "out", "epochs=2"), tmp_path / "out"
    with monkeypatch.context() as patched:
        after_step(patched, 4, lambda: os.kill(os.getpid(), signal.SIGTERM))
        assert command(*arguments)[0] == 143
    with (out / "run" / "metrics.csv").open("a") as file:
        file.write("6,1.5,3.2")
    assert command(*arguments, "--resume")[0] == 0
    assert [row[0] for row in loss_curve(out)] == ["4", "5", "8"]


def test_damaged_checkpoint_is_a_one_line_error(tagged: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    arguments, checkpoint = train_arguments(tagged, tmp_path / "out"), tmp_path / "out" / "run" / "checkpoint.pt"
    with monkeypatch.context() as patched:
        after_step(patched, 1, lambda: os.kill(os.getpid(), signal.SIGTERM))
        assert command(*arguments)[0] == 143
    whole = checkpoint.read_bytes()
    for content in (whole[: len(whole) // 2], b"", b"no checkpoint"):
        checkpoint.write_bytes(content)
        status, _, err = command(*arguments, "--resume")
        assert status == 2
        assert err.splitlines()[-1].startswith(
            f"error: {checkpoint} cannot be read: expected a torch file of tensors and plain data: "
        )


@pytest.mark.parametrize("case", ["offline", "another width"])
def test_rejected_run_leaves_no_folder(
    case: str, tagged: Path, tagged_model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    data, init, out = tagged, "timm", tmp_path / "out"
    message = (
        r"cannot load pretrained weights for test_resnet: no connection. Without a network, give a file of its weights "
        r"\(init=FILE in training\), or start from scratch \(init=scratch\)$"
    )
    if case == "offline":

        def offline(*_given: Any, **_options: Any) -> None:
            raise ConnectionError("no connection.\nmore")

        monkeypatch.setattr("zsl_tagger.model.backbone.timm.create_model", offline)
    else:
        data, init = shutil.copytree(tagged, tmp_path / "data"), str(tagged_model)
        (data / "dataset.json").unlink()
        vectors = torch.load(data / "wordvec_array.pth")
        torch.save(torch.randn(300, vectors.shape[1]), data / "wordvec_array.pth")
        message = r"the word vectors of .* have 300 dimensions, but .*model was trained on 256: prepare it with the"
    with pytest.raises(UserError, match=message):
        train(small_run(data, out, init=init, images=load_dataset(tagged).image_root))
    assert not out.exists()
    out.mkdir()
    with pytest.raises(UserError, match=message):
        train(small_run(data, out, init=init, images=load_dataset(tagged).image_root))
    assert list(out.iterdir()) == []


# --- the loss is no number ------------------------------------------------------------------------------------------


def test_non_finite_loss_stops_and_keeps_the_last_good_checkpoint(
    tagged: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    original = trainer.Trainer._loss

    def loss(self: trainer.Trainer, *given: Any) -> torch.Tensor:
        value = original(self, *given)
        return value * float("nan") if self.step == 6 else value

    with monkeypatch.context() as patched:
        patched.setattr(trainer.Trainer, "_loss", loss)
        status, _, err = command(*train_arguments(tagged, tmp_path / "out", "epochs=3", "checkpoint_every=3"))
    assert status == 2
    assert err.splitlines()[-1].startswith("error: the loss is nan at step 8 (learning rate ")
    assert "lower lr, set clip_grad=1 or set precision=fp32, and start again in a new --output" in err
    content = read_checkpoint(tmp_path / "out" / "run" / "checkpoint.pt")
    assert content["step"] == 6
    assert all(value.isfinite().all() for value in content["weights"].values())
    assert [row[0] for row in loss_curve(tmp_path / "out")] == ["3", "4", "6"]


def test_excessive_learning_rate_stops(tagged: Path, tmp_path: Path) -> None:
    run = small_run(tagged, tmp_path / "out", "lr=1e12", "epochs=5", "schedule=constant", "warmup=0")
    with pytest.raises(UserError, match=r"the loss is (nan|inf) at step \d+ \(learning rate 1e\+12\)"):
        train(run)


# --- full disks -----------------------------------------------------------------------------------------------------


def fill_disk(limit: int) -> None:
    """Limit the size of files that this process writes."""
    resource.setrlimit(resource.RLIMIT_FSIZE, (limit, resource.getrlimit(resource.RLIMIT_FSIZE)[1]))


@pytest.fixture
def disk() -> Iterator[None]:
    """Remove the limit at the end, and when a test calls it."""
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    yield
    resource.setrlimit(resource.RLIMIT_FSIZE, before)


def make_room() -> None:
    hard = resource.getrlimit(resource.RLIMIT_FSIZE)[1]
    resource.setrlimit(resource.RLIMIT_FSIZE, (hard, hard))


@pytest.mark.exports
@pytest.mark.usefixtures("disk")
@pytest.mark.parametrize(
    "limit",
    [
        0,
        60_000,
    ],
)
def test_disk_full_at_a_checkpoint(
    limit: int,
    tagged: Path,
    undisturbed: Callable[[tuple[str, ...]], Path],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    arguments, out = train_arguments(tagged, tmp_path / "out", *SETTINGS), tmp_path / "out"
    with monkeypatch.context() as patched:
        after_step(patched, 6, lambda: fill_disk(limit))
        status, _, err = command(*arguments)
    make_room()
    assert status == 2
    assert err.splitlines()[-1].startswith("error: cannot write ")
    assert "File too large" in err
    assert read_checkpoint(out / "run" / "checkpoint.pt")["step"] == 6
    assert not [path for path in (out / "run").iterdir() if path.name.endswith(".writing")]
    assert command(*arguments, "--resume")[0] == 0
    assert_same(out, undisturbed(SETTINGS))


@pytest.mark.exports
@pytest.mark.usefixtures("disk")
@pytest.mark.parametrize(
    "limit",
    [
        100,
        50_000,
    ],
)
def test_disk_full_at_the_end(
    limit: int,
    tagged: Path,
    undisturbed: Callable[[tuple[str, ...]], Path],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """While the labels or the weights are written."""
    arguments, out = train_arguments(tagged, tmp_path / "out", *SETTINGS), tmp_path / "out"
    original = finish.write_model

    def write(*given: Any) -> None:
        fill_disk(limit)
        if limit > 100:  # the packaged word table is larger than the weights
            given[2].info["word_vectors"]["source"] = None
        original(*given)

    with monkeypatch.context() as patched:
        patched.setattr(run_module, "write_model", write)
        status, _, err = command(*arguments)
    make_room()
    assert status == 2
    assert err.splitlines()[-1].startswith("error: cannot write ")
    assert "File too large" in err
    assert not (out / "config.json").exists()
    assert command(*arguments, "--resume")[0] == 0
    assert_same(out, undisturbed(SETTINGS))


@pytest.mark.exports
def test_disk_full_at_the_export(tagged: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """It is not reported as a problem of the network, and a model without the files for tagging is not finished."""
    arguments, out = train_arguments(tagged, tmp_path / "out"), tmp_path / "out"

    def export(*_given: Any, **_options: Any) -> float:
        raise OSError(errno.ENOSPC, "No space left on device")

    with monkeypatch.context() as patched:
        patched.setattr(model_writer, "write_proven", export)
        status, _, err = command(*arguments)
    assert status == 2
    assert "No space left on device" in err.splitlines()[-1]
    assert not (out / "config.json").exists()
    assert command(*arguments, "--resume")[0] == 0
    assert Tagger(out).vocabulary


def test_disk_too_small_for_the_features(tagged: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    usage = shutil.disk_usage(tmp_path)
    monkeypatch.setattr(shutil, "disk_usage", lambda _: usage._replace(free=1000))
    status, _, err = command(*train_arguments(tagged, tmp_path / "out", *CACHED))
    assert status == 2
    assert err.splitlines()[-1].startswith("error: the features of 40 photos need ")
    assert "lower cache_views or image_size" in err


# --- memory ---------------------------------------------------------------------------------------------------------

OUT_OF_MEMORY = [
    torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 20.00 GiB"),
    RuntimeError("[enforce fail at alloc_cpu.cpp] DefaultCPUAllocator: can't allocate memory: you tried to allocate"),
    MemoryError(),
]


def raising(error: Exception) -> Callable[..., Any]:
    def fails(*_given: Any, **_options: Any) -> Any:
        raise error

    return fails


@pytest.mark.parametrize("error", OUT_OF_MEMORY, ids=lambda error: type(error).__name__)
def test_out_of_memory_names_settings_to_lower(
    error: Exception, tagged: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(trainer.TrainNetwork, "forward", raising(error))
    status, _, err = command(*train_arguments(tagged, tmp_path / "out"))
    assert status == 2
    assert err.splitlines()[-1] == (
        "error: out of memory with batch_size=8 in 1 parts of images of 64 px: raise accumulate (the result stays the "
        "same), or lower batch_size, image_size, or labels_per_step; precision=bf16 needs about half the memory"
    )


def test_other_errors_are_not_reported_as_out_of_memory(
    tagged: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(trainer.TrainNetwork, "forward", raising(RuntimeError("shapes do not fit")))
    with pytest.raises(RuntimeError, match="shapes do not fit"):
        train(small_run(tagged, tmp_path / "out"))


@pytest.mark.exports
@pytest.mark.parametrize("where", ["validation", "features"])
def test_out_of_memory_outside_of_the_steps(
    where: str, tagged: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    if where == "validation":
        monkeypatch.setattr(TaggerModel, "encode", raising(OUT_OF_MEMORY[0]))
    else:
        monkeypatch.setattr(FeatureCache, "fill", raising(OUT_OF_MEMORY[0]))
    settings = CACHED if where == "features" else ()
    with pytest.raises(UserError, match="out of memory"):
        train(small_run(tagged, tmp_path / "out", *settings))


# --- broken images --------------------------------------------------------------------------------------------------


def broken(tagged: Path, target: Path, split: str, count: int) -> list[str]:
    """Copy the photos and damage some of a split; return their paths, sorted."""
    dataset = load_dataset(tagged)
    assert dataset.image_root is not None
    shutil.copytree(dataset.image_root / "photos", target / "photos")
    chosen = sorted(dataset.paths[row] for row in dataset.rows(split)[1 : 1 + count])
    for path in chosen:
        (target / path).write_bytes(b"no picture")
    return chosen


@pytest.mark.parametrize("settings", [("workers=0",), ("workers=1",), CACHED], ids=["here", "worker", "features"])
@pytest.mark.parametrize("split", ["train", "val"])
def test_unreadable_images_are_replaced_counted_and_listed(
    settings: tuple[str, ...], split: str, tagged: Path, tmp_path: Path
) -> None:
    bad, out = broken(tagged, tmp_path / "images", split, 2), tmp_path / "out"
    arguments = train_arguments(tagged, out, *settings, "epochs=1")
    status, _, err = command(*arguments, "--images", str(tmp_path / "images"))
    assert status == 0, err
    assert "warning: 2 images could not be read and were left out or replaced by others, e.g. " in err
    with (out / "run" / "unreadable.csv").open(newline="") as file:
        rows = list(csv.DictReader(file))
    assert [row["path"] for row in rows] == bad
    assert all(row["reason"] for row in rows)
    assert "2 images could not be read: `run/unreadable.csv`" in (out / "README.md").read_text()


def test_list_of_unreadable_images_contains_no_formula(tmp_path: Path) -> None:
    run = SimpleNamespace(faults={0: "+reason"}, dataset=SimpleNamespace(paths=["=a.jpg"]), folder=tmp_path)
    run_module._Run._report_unreadable(run)  # type: ignore[arg-type]
    assert (tmp_path / "unreadable.csv").read_bytes() == b"path,reason\r\n'=a.jpg,'+reason\r\n"


def test_resumed_run_remembers_unreadable_images(tagged: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    bad, out = broken(tagged, tmp_path / "images", "train", 2), tmp_path / "out"
    arguments = [*train_arguments(tagged, out), "--images", str(tmp_path / "images")]
    with monkeypatch.context() as patched:
        after_step(patched, 2, lambda: os.kill(os.getpid(), signal.SIGTERM))
        assert command(*arguments)[0] == 143
    assert command(*arguments, "--resume")[0] == 0
    with (out / "run" / "unreadable.csv").open(newline="") as file:
        assert [row["path"] for row in csv.DictReader(file)] == bad


@pytest.mark.parametrize(
    "settings",
    [
        pytest.param(("workers=0",), id="here"),
        pytest.param(
            ("workers=1",),
            id="worker",
        ),
        pytest.param(CACHED, id="features"),
    ],
)
def test_all_images_missing_is_a_one_line_error(settings: tuple[str, ...], tagged: Path, tmp_path: Path) -> None:
    (tmp_path / "images").mkdir()
    arguments = train_arguments(tagged, tmp_path / "out", *settings)
    status, _, err = command(*arguments, "--images", str(tmp_path / "images"))
    assert status == 2
    assert "Traceback" not in err
    assert err.splitlines()[-1].startswith("error: ")
    assert "check --images" in err.splitlines()[-1]
    assert not (tmp_path / "out" / "config.json").exists()


def test_two_runs_cannot_share_a_folder(tagged: Path, tmp_path: Path) -> None:
    out = tmp_path / "out"
    out.mkdir()
    with locked(out):
        status, _, err = command(*train_arguments(tagged, out))
    assert (status, err) == (
        2, f"error: {out}: another run is writing here: wait for it, or give another folder\n"
    )  # fmt: skip
    assert command(*train_arguments(tagged, out))[0] == 0


@pytest.mark.exports
def test_single_label_runs_resume(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """With mixed images, repeated augmentation and a softmax."""
    data = animal_data(tmp_path / "animals")
    settings = ("mixup=0.2", "cutmix=1", "repeats=3", "epochs=2", "checkpoint_every=2")
    train(small_run(data, tmp_path / "whole", *settings, recipe="cifar100"))
    with monkeypatch.context() as patched:
        after_step(patched, 4, lambda: os.kill(os.getpid(), signal.SIGTERM))
        with pytest.raises(Exception, match="stopped at step 5"):
            train(small_run(data, tmp_path / "out", *settings, recipe="cifar100"))
    train(small_run(data, tmp_path / "out", *settings, recipe="cifar100", resume=True))
    assert_same(tmp_path / "out", tmp_path / "whole")
