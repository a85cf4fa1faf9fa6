"""The programs in examples/ run, with `tiny`."""

from __future__ import annotations

import json
import runpy
import sys
from pathlib import Path

import cv2
import pytest
import torch

from esam_rt import EntitySegmenter, SegmenterConfig, Settings
from esam_rt.integrations.triton.model_repository import export_repository
from tests.docs.conftest import ROOT
from tests.support.triton_grpc import listening
from tests.support.triton_server import StandInServer

EXAMPLES = sorted((ROOT / "examples").glob("*.py"))


@pytest.fixture(autouse=True)
def _in_user_folder(user_folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(user_folder)


def run(monkeypatch: pytest.MonkeyPatch, name: str, *arguments: str) -> None:
    path = ROOT / "examples" / name
    monkeypatch.setattr(sys, "argv", [str(path), *arguments])
    runpy.run_path(str(path), run_name="__main__")


@pytest.mark.parametrize("path", EXAMPLES, ids=lambda path: path.name)
def test_example_is_short(path: Path) -> None:
    assert len(path.read_text().splitlines()) < 40


def test_every_example_is_run() -> None:
    tests = Path(__file__).read_text()
    assert [path.name for path in EXAMPLES if f'"{path.name}"' not in tests] == []


def test_one_photo(monkeypatch: pytest.MonkeyPatch, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    out = tmp_path / "labels.png"
    run(monkeypatch, "one_photo.py", "photo.jpg", str(out))
    labels = cv2.imread(str(out), cv2.IMREAD_UNCHANGED)
    assert labels is not None
    assert labels.shape == (160, 192)
    assert labels.dtype == "uint16"
    assert len(capsys.readouterr().out.splitlines()) == labels.max()


def test_one_photo_says_what_to_do_without_a_photo(monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(SystemExit, match="cannot be read"):
        run(monkeypatch, "one_photo.py", "missing.jpg", "labels.png")


def test_folder(monkeypatch: pytest.MonkeyPatch, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    for done in (1, 0):  # the second call resumes
        with pytest.raises(SystemExit) as end:
            run(monkeypatch, "folder.py", "photos", str(tmp_path / "result"))
        assert end.value.code == 0
        assert f"{done} photos segmented, 0 failed" in capsys.readouterr().out
    assert json.loads((tmp_path / "result" / "entities.json").read_text())["images"]


def test_array_frames(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    run(monkeypatch, "array_frames.py")
    out = capsys.readouterr().out
    assert "frame 2: " in out
    assert "labels (96, 128)" in out


def test_prompts(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    run(monkeypatch, "prompts.py", "photo.jpg")
    assert capsys.readouterr().out.count("point: predicted IoU") == 3


def test_triton_client(monkeypatch: pytest.MonkeyPatch, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    settings = Settings().with_overrides({"prompts.coarse_side": 6, "prompts.fine_side": 12})
    repository = export_repository(SegmenterConfig(settings=settings), tmp_path / "models").path
    out = tmp_path / "labels.png"
    with StandInServer(repository).serving() as server, listening(server) as url:
        run(monkeypatch, "triton_client.py", "photo.jpg", str(out), url)
    photo = cv2.cvtColor(cv2.imread("photo.jpg"), cv2.COLOR_BGR2RGB)
    with EntitySegmenter("tiny", settings=settings) as segment:
        expected = segment(photo)
    assert (cv2.imread(str(out), cv2.IMREAD_UNCHANGED) == expected.labels).all()
    assert len(capsys.readouterr().out.splitlines()) == len(expected) > 0


def test_gpu_tensor_skips_without_a_gpu(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    with pytest.raises(SystemExit, match=r"Skipped: PyTorch finds no NVIDIA GPU\."):
        run(monkeypatch, "gpu_tensor.py")


@pytest.mark.skipif(not torch.cuda.is_available(), reason="no NVIDIA GPU")
def test_gpu_tensor(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    pytest.importorskip("tensorrt_rtx")
    run(monkeypatch, "gpu_tensor.py")
    assert "entities" in capsys.readouterr().out
