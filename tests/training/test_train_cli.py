"""Test the command ``zsl-tagger train``: its output, and its errors in one line."""

from __future__ import annotations

import json
import shutil
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
from accelerate import Accelerator
from made_data import run_command, write_photo
from small_runs import animal_data, train_arguments, weights_of
from typer.testing import CliRunner

import cli
from data_prep.folders import Folders
from data_prep.pipeline import Options, prepare
from zsl_tagger.datasets.read import load_dataset

pytestmark = [pytest.mark.usefixtures("one_torch_thread", "few_exports"), pytest.mark.slow]


@pytest.fixture(scope="module")
def done(tagged: Path, tmp_path_factory: pytest.TempPathFactory) -> SimpleNamespace:
    """A finished run: its folder and its output."""
    out = tmp_path_factory.mktemp("done") / "out"
    status, stdout, stderr = run(*train_arguments(tagged, out), "--recipe", "nus-wide-zsl")
    return SimpleNamespace(out=out, status=status, stdout=stdout, stderr=stderr)


def run(*arguments: str | Path) -> tuple[int, str, str]:
    """Return exit status, stdout and stderr."""
    return run_command("train", *arguments)


def refused(*arguments: str | Path) -> str:
    """Return the error line; notes may precede it."""
    status, stdout, stderr = run(*arguments)
    assert (status, stdout) == (2, "")
    *notes, error = stderr.splitlines()
    assert all(line.startswith(("note: ", "warning: ")) for line in notes)
    assert error.startswith("error: ")
    return error.removeprefix("error: ")


def contents(folder: Path) -> dict[str, bytes]:
    return {str(path.relative_to(folder)): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def test_output(done: SimpleNamespace) -> None:
    assert done.status == 0
    lines = done.stdout.splitlines()
    assert lines[0].startswith(f"{done.out}: trained in ")
    assert lines[1].startswith("  validation (step 4 of 4): val_map ")
    assert lines[2] == f"  curves: {done.out / 'run' / 'curves.png'}"
    assert lines[3] == f"  try it: zsl-tagger tag PHOTOS --model {done.out}"
    notes = done.stderr.splitlines()
    assert all(line.startswith(("note: ", "warning: ")) for line in notes)
    assert "note: backbone test_resnet: random weights" in notes
    assert "note: 32 training images, 8 for validation; 6 labels; 1 x cpu, fp32" in notes


def test_the_model_tags(done: SimpleNamespace, tagged: Path) -> None:
    photos = load_dataset(tagged).image_root
    assert photos is not None
    arguments = ["tag", str(photos / "photos" / "000.jpg"), "--model", str(done.out), "--format", "json"]
    result = CliRunner().invoke(cli.app, [*arguments, "--threshold", "0", "--labels", "lion,sky,zebra"])
    assert result.exit_code == 0
    assert {tag["label"] for tag in json.loads(result.stdout)[0]["tags"]} == {"lion", "sky", "zebra"}


def test_show_needs_no_folders() -> None:
    status, stdout, stderr = run("--recipe", "nus-wide-zsl", "--show")
    assert (status, stderr) == (0, "")
    assert "\n  recipe=nus-wide-zsl " in stdout


@pytest.mark.parametrize("given", [[], ["--data", "data"], ["--output", "model"]])
def test_training_needs_both_folders(given: list[str]) -> None:
    message = "error: expected --data FOLDER and --output FOLDER; only --show needs neither\n"
    assert run(*given) == (2, "", message)


def test_show_prints_the_settings_and_trains_nothing(tagged: Path, tmp_path: Path) -> None:
    arguments = train_arguments(tagged, tmp_path / "out")
    status, stdout, stderr = run(*arguments, "--recipe", "cifar100", "--set", "lr=3e-4", "--show")
    assert (status, stderr) == (0, "")
    for line in ("  recipe=cifar100", "* backbone=test_resnet", "* init=scratch", "* lr=0.0003"):
        assert f"\n{line} " in stdout
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize(
    ("more", "message"),
    [
        (["--backbone", "test_resnett"], "timm has no model 'test_resnett'; the nearest names are: test_resnet"),
        (["--set", "learning_rate=1"], "there is no setting 'learning_rate'; the settings are: "),
        (["--set", "epoch=1"], "there is no setting 'epoch'; did you mean epochs"),
        (["--set", "epochs"], "expected --set name=value, got 'epochs'"),
        (["--set", "epochs=some"], "expected epochs to be a whole number, got 'some'"),
        (["--set", "heads=5"], "expected heads to divide dim=32, got heads=5"),
        (["--set", "optimizer=adamm"], "timm has no optimizer 'adamm'; it has: "),
        (["--recipe", "cifar100", "--set", "loss=asl_single"], "loss=asl_single needs exactly one label per image"),
        (["--set", "rand_augment=much"], "expected rand_augment in timm's notation"),
        (["--backbone", "test_vit", "--set", "image_size=8"], "test_vit cannot process images of 8 px"),
        (["--init", "gone.pth"], "expected --init timm, scratch, packaged, a model folder or a file of weights, got '"),
        (["--config", "gone.json"], "cannot read the configuration gone.json: No such file or directory"),
        (["--recipe", "cifar100", "--config", "x.json"], "give --recipe or --config, not both"),
        (["--images", "gone"], "gone is not a folder of images: give --images DIR"),
        (["--resume"], "nothing to resume: there is no "),
    ],
)  # fmt: skip
def test_errors_are_one_line(
    more: list[str], message: str, tagged: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    assert message in refused(*train_arguments(tagged, tmp_path / "out"), *more)
    assert not (tmp_path / "out" / "config.json").exists()


@pytest.mark.skipif(torch.cuda.is_available(), reason="there is a GPU")
def test_half_precision_needs_a_gpu(tagged: Path, tmp_path: Path) -> None:
    error = refused(*train_arguments(tagged, tmp_path / "out", "precision=fp16"))
    assert error == "precision=fp16 needs a CUDA GPU: set precision=bf16 or fp32"
    assert not (tmp_path / "out").exists()


def test_batch_size_must_divide_among_processes(tagged: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Accelerator, "num_processes", property(lambda _: 3))
    error = refused(*train_arguments(tagged, tmp_path / "out", "accumulate=2"))
    assert error == "batch_size=8 does not divide among 3 processes x accumulate=2: set batch_size to a multiple of 6"
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        (("batch_size=30", "drop_last=false"),
         "the last batch of an epoch has 2 images for 3 processes x accumulate=1: set drop_last=true or change "
         "batch_size"),
        (("batch_size=9", "sync_batch_norm=true"),
         "sync_batch_norm needs CUDA GPUs, got 3 processes on cpu: set sync_batch_norm=false; batch norm is then "
         "computed over 3 images"),
    ],
)  # fmt: skip
def test_limitations_of_several_processes(
    settings: tuple[str, ...], message: str, tagged: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(Accelerator, "num_processes", property(lambda _: 3))
    arguments = [*train_arguments(tagged, tmp_path / "out", *settings), "--recipe", "nus-wide-zsl"]
    assert refused(*arguments) == message
    assert not (tmp_path / "out").exists()


def test_invalid_data_folder(tagged: Path, tmp_path: Path) -> None:
    assert refused(*train_arguments(tmp_path / "gone", tmp_path / "out")).startswith(
        f"{tmp_path / 'gone'} is not a valid data set folder: "
    )
    shutil.copytree(tagged, tmp_path / "data")
    table = tmp_path / "data" / "data.csv"
    table.write_text(table.read_text().replace("[sky]", "[boat]", 1))
    error = refused(*train_arguments(tmp_path / "data", tmp_path / "out"))
    assert error.startswith(f"{tmp_path / 'data'} is not a valid data set folder: data.csv")
    assert not (tmp_path / "out").exists()


def test_one_class_is_not_enough(tmp_path: Path) -> None:
    for seed in range(8):
        write_photo(tmp_path / "in" / "cat" / f"{seed}.jpg", seed)
    prepare(Folders(source=tmp_path / "in"), tmp_path / "data", Options(workers=1))
    error = refused(*train_arguments(tmp_path / "data", tmp_path / "out"))
    assert "expected at least 2 labels with training images, got 1" in error


def test_word_vectors_must_fit_the_packaged_model(tagged: Path, tmp_path: Path) -> None:
    shutil.copytree(tagged, tmp_path / "data")
    (tmp_path / "data" / "dataset.json").unlink()
    torch.save(torch.load(tagged / "wordvec_array.pth")[:10].clone(), tmp_path / "data" / "wordvec_array.pth")
    images = load_dataset(tagged).image_root
    assert images is not None
    error = refused("--data", tmp_path / "data", "--output", tmp_path / "out", "--init", "packaged", "--images", images)
    assert f"the word vectors of {tmp_path / 'data'} have 10 dimensions, but " in error
    assert error.endswith("was trained on 256: prepare the data with --word-vectors packaged")


def test_folder_with_other_files_is_not_touched(tagged: Path, tmp_path: Path) -> None:
    out = tmp_path / "out"
    out.mkdir()
    (out / "thesis.tex").write_text("years of work")
    for more in ([], ["--set", "epochs=2"]):
        error = refused(*train_arguments(tagged, out), *more)
        assert error == f"{out} contains other files (thesis.tex): give a new or empty folder"
    assert contents(out) == {"thesis.tex": b"years of work"}
    (tmp_path / "file").write_text("kept")
    error = refused(*train_arguments(tagged, tmp_path / "file"))
    assert error == f"--output {tmp_path / 'file'} is a file, expected a folder"


def test_earlier_run_is_kept_without_overwrite(done: SimpleNamespace, tagged: Path, tmp_path: Path) -> None:
    out = tmp_path / "out"
    shutil.copytree(done.out, out)
    before = contents(out)
    error = refused(*train_arguments(tagged, out), "--recipe", "nus-wide-zsl")
    assert error == f"{out} already contains a run: --resume continues it, --overwrite starts over"
    for fault in (["--backbone", "gone"], ["--set", "optimizer=gone"], ["--init", "gone"], ["--images", "gone"]):
        refused(*train_arguments(tagged, out), "--recipe", "nus-wide-zsl", "--overwrite", *fault)
    assert contents(out) == before  # a mistyped option costs no model
    status, _, _ = run(*train_arguments(tagged, out, "seed=1"), "--recipe", "nus-wide-zsl", "--overwrite")
    assert status == 0
    assert any((value != weights_of(done.out)[name]).any() for name, value in weights_of(out).items())
    assert json.loads((out / "train_config.json").read_text())["seed"] == 1


def test_unknown_optimizer_is_reported_before_computing_features(tagged: Path, tmp_path: Path) -> None:
    error = refused(*train_arguments(tagged, tmp_path / "out", "optimizer=adamm"), "--recipe", "my-photos")
    assert error.startswith("timm has no optimizer 'adamm'; it has: ")
    assert not list((tmp_path / "out").rglob("*.npy"))


def test_resume_needs_the_same_settings(tagged: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from zsl_tagger.training import trainer

    out, original = tmp_path / "out", trainer.Trainer._train_step

    def step(self: trainer.Trainer, shown: Iterator[trainer.LoadedPart]) -> torch.Tensor:
        if self.step == 2:
            raise KeyboardInterrupt
        return original(self, shown)

    arguments = [
        *train_arguments(tagged, out, "checkpoint_every=1", "interpolation=bicubic"),
        "--recipe",
        "nus-wide-zsl",
    ]
    with monkeypatch.context() as patched:
        patched.setattr(trainer.Trainer, "_train_step", step)
        assert run(*arguments)[0] == 130
    before = contents(out)
    error = refused(*arguments, "--resume", "--set", "lr=0.5", "--set", "epochs=7")
    assert error == (
        f"{out / 'run' / 'checkpoint.pt'} has other settings (epochs 1 -> 7, lr 0.0001 -> 0.5): "
        "resume with the original ones"
    )
    other = animal_data(tmp_path / "animals")
    assert "has other images, labels" in refused(
        *[str(other) if one == str(tagged) else one for one in arguments], "--resume"
    )
    assert contents(out) == before
    assert refused(*arguments).endswith("already contains a run: --resume continues it, --overwrite starts over")
    checkpoint = torch.load(out / "run" / "checkpoint.pt", weights_only=True)
    for name in ("drop_last", "interpolation", "min_lr"):  # an older version had no such settings
        del checkpoint["config"][name]
    torch.save(checkpoint, out / "run" / "checkpoint.pt")
    assert (
        run(*arguments, "--resume", "--set", "workers=1", "--set", "bake_words=5")[0] == 0
    )  # these do not affect the result
