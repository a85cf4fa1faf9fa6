"""`esam-rt export` and `esam-rt models`: what they write and print, and one sentence for each mistake."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import requests
from PIL import Image
from rich.console import Console

from esam_rt.cli import output
from esam_rt.sam.models import MODELS, WEIGHTS
from esam_rt.storage.hashing import sha256_of
from esam_rt.storage.locks import kept_from_others
from tests.cli.test_app import assert_one_error_line, call

GRAPHS = ["encoder.onnx", "decoder.onnx", "mask_head.onnx", "logits.onnx"]


@pytest.fixture(autouse=True)
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("ESAM_RT_CACHE", str(tmp_path / "cache"))
    return tmp_path / "cache"


@pytest.fixture
def offline(monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*arguments: object, **options: object) -> None:
        raise requests.ConnectionError("Name or service not known")

    monkeypatch.setattr(requests, "get", refuse)


def test_export_says_what_it_wrote(tmp_path: Path) -> None:
    result = call("export", "tiny", "--out", tmp_path / "new" / "folder")
    assert (result.exit_code, result.stderr) == (0, "")
    assert "tiny.safetensors (the weights that ship)" in result.stdout
    for name in GRAPHS:
        assert str(tmp_path / "new" / "folder" / name) in result.stdout
    assert "4 files in" in result.stdout
    assert sorted(p.name for p in (tmp_path / "new" / "folder").iterdir()) == sorted([*GRAPHS, "esam-rt.json"])


def test_export_for_programs_and_once(cache: Path) -> None:
    first, again = (json.loads(call("export", "tiny", "--precision", "fp16", "--json").stdout) for _ in range(2))
    assert first == again
    assert first["checkpoint_sha256"] == sha256_of(WEIGHTS / "tiny.safetensors")
    assert [Path(f).name for f in first["files"]] == GRAPHS
    assert all(Path(f).is_relative_to(cache) for f in first["files"])
    (row,) = (row for row in json.loads(call("models", "--json").stdout) if row["name"] == "tiny")
    assert row["exported"] == ["fp16"]


def test_quiet(tmp_path: Path) -> None:
    result = call("export", "tiny", "--out", tmp_path, "--quiet")
    assert (result.exit_code, result.stdout, result.stderr) == (0, "", "")


def test_steps_on_a_terminal(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    terminal = Console(force_terminal=True, stderr=True, width=120)
    monkeypatch.setattr(output, "stderr", terminal)
    with terminal.capture() as capture:
        assert call("export", "tiny", "--out", tmp_path).exit_code == 0
    shown = capture.get()
    for step in ("reading tiny.safetensors", *(f"writing {name}" for name in GRAPHS)):
        assert step in shown


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (("export", "vit_x"), ("'vit_x'", "Did you mean", "vit_")),
        (("export", "tiny", "--precision", "int8"), ("--precision int8: unknown", "fp32, fp16, bf16")),
        (("export", "vit_b", "--attention", "flash"), ("--attention flash: unknown", "concat, fused, bias")),
        (("export", "tiny", "--attention", "concat"), ("tiny has no choice of attention forms",)),
    ],
)
def test_mistakes_are_2(arguments: tuple[str, ...], words: tuple[str, ...]) -> None:
    result = call(*arguments)
    assert result.exit_code == 2
    assert_one_error_line(result, *words)


LFS = b"version https://git-lfs.github.com/spec/v1\noid sha256:0\nsize 1\n"


@pytest.mark.parametrize(
    ("content", "words"),
    [
        (None, ("found no such file",)),
        (b"", ("an empty file",)),
        (LFS, ("Git LFS", "git lfs pull")),
        (b"<!DOCTYPE html><html></html>", ("a web page", "download it again")),
        (b"\x80\x02}q\x00.", ("a pickle", "torch.save")),
        (b"PK\3\4" + b"\0" * 400, ("truncated", "download or copy it again")),
    ],
    ids=["missing", "empty", "LFS pointer", "page", "old pickle", "truncated"],
)
@pytest.mark.parametrize("command", ["export", "run"])
def test_bad_checkpoints_are_3(tmp_path: Path, command: str, content: bytes | None, words: tuple[str, ...]) -> None:
    file = tmp_path / "sam.pth"
    if content is not None:
        file.write_bytes(content)
    Image.new("RGB", (30, 20)).save(tmp_path / "photo.png")
    arguments = ("export", "vit_b") if command == "export" else ("run", tmp_path / "photo.png", "--model", "vit_b")
    result = call(*arguments, "--checkpoint", file, "--out", tmp_path / "out")
    assert result.exit_code == 3
    assert_one_error_line(result, str(file), *words)
    assert not list((tmp_path / "out").glob("*.onnx"))


def test_checkpoint_of_another_model_is_3(tmp_path: Path) -> None:
    result = call("export", "vit_b", "--checkpoint", WEIGHTS / "tiny.safetensors", "--out", tmp_path / "out")
    assert result.exit_code == 3
    assert_one_error_line(result, "tiny.safetensors", "expected")
    assert not (tmp_path / "out").exists()


def test_no_network_is_3_and_says_where_to_put_which_file(cache: Path, offline: None) -> None:
    result = call("export", "vit_h")
    assert result.exit_code == 3
    remote = MODELS["vit_h"].remote
    assert remote is not None
    assert_one_error_line(result, "no connection", remote.url, "2,564,550,879 bytes", "--checkpoint")
    assert str(cache / "checkpoints" / "sam_vit_h_4b8939.pth") in result.stderr


@pytest.mark.parametrize(
    ("options", "line"),
    [
        ((), "Use it: esam-rt run PHOTOS --model tiny\n"),
        (("--precision", "fp16"), "Use it: esam-rt run PHOTOS --model tiny --precision fp16\n"),
        (("--out", "{out}"), ""),
    ],
)
def test_export_says_how_to_use_it(tmp_path: Path, options: tuple[str, ...], line: str) -> None:
    result = call("export", "tiny", *(word.format(out=tmp_path / "out") for word in options))
    assert ("Use it" in result.stdout) == bool(line)
    assert result.stdout.endswith(line)


def test_cache_that_cannot_be_entered(cache: Path) -> None:
    cache.write_text("a file")
    assert call("models").exit_code == 0
    result = call("export", "vit_b")
    assert result.exit_code in (1, 3)
    assert_one_error_line(result, str(cache))


def test_models(cache: Path) -> None:
    (cache / "checkpoints").mkdir(parents=True)
    with (cache / "checkpoints" / "sam_vit_l_0b3195.pth").open("wb") as f:
        f.truncate(1_249_524_607)
    (cache / "checkpoints" / "sam_vit_b_01ec64.pth").write_bytes(b"half")
    lines = {line.split()[0]: line for line in call("models").stdout.splitlines()[1:] if line.strip()}
    assert {"tiny", "vit_t", "vit_b", "vit_l", "vit_h"} <= lines.keys()
    assert "1,250 MB" in lines["vit_l"]
    assert [name for name, line in lines.items() if "in the cache" in line] == ["vit_l"]
    rows = json.loads(call("models", "--json").stdout)
    assert [row["name"] for row in rows] == list(MODELS)
    assert all(row["url"].startswith("https://") for row in rows if row["name"] != "tiny")
    assert {row["license"] for row in rows if row["name"] != "tiny"} == {"Apache-2.0"}


def test_export_removes_what_a_killed_one_left(tmp_path: Path) -> None:
    out = tmp_path / "out"
    (out / ".esam-rt-killed").mkdir(parents=True)
    (out / ".esam-rt-killed" / "encoder.onnx").write_bytes(b"half")
    (out / ".esam-rt-0123.json").write_text("{")
    (out / "mine.txt").write_text("mine")
    assert call("export", "tiny", "--out", out).exit_code == 0
    assert sorted(path.name for path in out.iterdir()) == [
        *("decoder.onnx", "encoder.onnx", "esam-rt.json", "logits.onnx", "mask_head.onnx", "mine.txt")
    ]


def test_two_exports_to_one_folder(tmp_path: Path) -> None:
    with kept_from_others(tmp_path / "out"):
        result = call("export", "tiny", "--out", tmp_path / "out")
    assert (result.exit_code, (tmp_path / "out").exists()) == (2, False)
    assert "another run is writing there" in result.stderr
