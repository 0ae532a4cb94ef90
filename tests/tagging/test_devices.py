"""Test where networks run: on the processor, or on a GPU (a stand-in for ONNX Runtime offers one)."""

from __future__ import annotations

import inspect
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import onnxruntime
import pytest
from made_data import run_command

from zsl_tagger.bulk.options import TagRun, check_options
from zsl_tagger.errors import UserError
from zsl_tagger.tagging import devices, onnx_model
from zsl_tagger.tagging.devices import CPU, CUDA
from zsl_tagger.tagging.tagger import Tagger

Install = Callable[..., list[Any]]


@pytest.fixture(autouse=True)
def _networks_are_opened_each_time(monkeypatch: pytest.MonkeyPatch) -> None:
    """Other tests share the packaged encoder (conftest.py); these look at how it is opened."""
    monkeypatch.setattr(onnx_model, "open_session", inspect.unwrap(onnx_model.open_session))


@pytest.fixture
def onnxruntime_gpu(monkeypatch: pytest.MonkeyPatch) -> Install:
    """Return a function that makes ONNX Runtime offer CUDA; it returns the providers that sessions then ask for.

    With ``works=False`` sessions are on the processor all the same, as where libraries are missing; with an ``error``
    they cannot be created on CUDA.
    """
    real = onnxruntime.InferenceSession

    def install(works: bool = True, error: str | None = None) -> list[Any]:
        asked: list[Any] = []

        class Session:
            def __init__(self, path: str, options: Any, providers: list[Any], **more: Any) -> None:
                asked.append(providers)
                names = [one if isinstance(one, str) else one[0] for one in providers]
                self._on_gpu = CUDA in names and works
                if CUDA in names:
                    assert more == {"enable_fallback": False}  # which would print
                    if error is not None:
                        raise RuntimeError(error)
                self._session = real(path, options, providers=[CPU])

            def get_providers(self) -> list[str]:
                return [CUDA, CPU] if self._on_gpu else [CPU]

            def __getattr__(self, name: str) -> Any:
                return getattr(self._session, name)

        monkeypatch.setattr(onnxruntime, "get_available_providers", lambda: [CUDA, CPU])
        monkeypatch.setattr(onnxruntime, "InferenceSession", Session)
        monkeypatch.setattr(devices, "_load_libraries", lambda: None)
        return asked

    return install


@pytest.mark.parametrize("device", ["auto", "cpu"])
def test_without_cuda_networks_are_opened_on_the_processor_as_ever(
    device: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked: list[Any] = []
    real = onnxruntime.InferenceSession

    def session(*arguments: Any, **options: Any) -> Any:
        asked.append(options)
        return real(*arguments, **options)

    monkeypatch.setattr(onnxruntime, "InferenceSession", session)
    monkeypatch.setattr(devices, "_load_libraries", lambda: pytest.fail("it costs time"))
    assert Tagger(device=device).device == "cpu"
    assert asked == [{"providers": [CPU]}] * 4


def test_auto_is_the_gpu_where_it_works(onnxruntime_gpu: Install, examples: Path, tagger: Tagger) -> None:
    expected = tagger.tag(examples / "cat.jpg", ["cat", "dog"], threshold=0)
    asked = onnxruntime_gpu()
    on_gpu = Tagger()
    assert on_gpu.device == "cuda"
    assert asked == [[(CUDA, {"use_tf32": "0"}), CPU]] * 4
    assert on_gpu.tag(examples / "cat.jpg", ["cat", "dog"], threshold=0) == expected


def test_the_processor_can_be_chosen_beside_a_gpu(onnxruntime_gpu: Install) -> None:
    asked = onnxruntime_gpu()
    assert Tagger(device="cpu").device == "cpu"
    assert asked == [[CPU]] * 4


@pytest.mark.parametrize("fault", [{"works": False}, {"error": "CUDA failure 100: no CUDA-capable device"}])
def test_auto_is_the_processor_where_the_gpu_does_not_work(
    onnxruntime_gpu: Install, fault: dict[str, Any], capfd: pytest.CaptureFixture[str]
) -> None:
    asked = onnxruntime_gpu(**fault)
    assert Tagger().device == "cpu"
    assert asked[1] == [CPU]
    assert capfd.readouterr() == ("", "")


@pytest.mark.parametrize(
    ("fault", "reason"),
    [({"works": False}, "ONNX Runtime does not say why"), ({"error": "no driver\nat line 3"}, "no driver")],
)
def test_cuda_that_does_not_work_is_an_error(onnxruntime_gpu: Install, fault: dict[str, Any], reason: str) -> None:
    onnxruntime_gpu(**fault)
    with pytest.raises(UserError, match=re.escape(f"device cuda does not work here, only cpu ({reason}): it needs")):
        Tagger(device="cuda")


def test_cuda_that_is_not_installed_is_an_error_with_what_to_install() -> None:
    with pytest.raises(UserError, match=r"device cuda is not available, only cpu: .* pip uninstall -y onnxruntime"):
        Tagger(device="cuda")


def test_there_is_no_other_device() -> None:
    with pytest.raises(UserError, match="expected a device of auto, cpu, cuda; got 'gpu'"):
        Tagger(device="gpu")


def test_the_command_says_it_in_one_line(examples: Path) -> None:
    status, stdout, stderr = run_command("tag", examples / "cat.jpg", "--device", "cuda")
    assert (status, stdout) == (2, "")
    assert stderr.startswith("error: device cuda is not available, only cpu: ")
    assert stderr.count("\n") == 1


def test_ray_does_not_tag_on_a_gpu() -> None:
    with pytest.raises(UserError, match=r"^device cuda works with the local engine only"):
        check_options(TagRun(paths=["x.jpg"], engine="ray", device="cuda"))


def test_libraries_are_loaded_without_a_word(
    monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(onnxruntime, "preload_dlls", lambda: print("Failed to load libcublas"), raising=False)
    devices._load_libraries.__wrapped__()
    monkeypatch.delattr(onnxruntime, "preload_dlls")  # before 1.21
    devices._load_libraries.__wrapped__()
    assert capfd.readouterr() == ("", "")


def test_scores_are_float32_arrays_of_the_same_bytes(examples: Path, tagger: Tagger) -> None:
    labels = ["cat", "sky", "zebra"]
    scores = [one.scores(one.encode(examples / "cat.jpg"), labels) for one in (tagger, Tagger(device="cpu"))]
    assert scores[0].dtype == np.float32
    assert scores[0].tobytes() == scores[1].tobytes()
