"""The cache: hashes that are remembered, exports that are made once for each form, files that are damaged."""

from __future__ import annotations

import json
import os
from collections.abc import Callable
from pathlib import Path

import pytest

from esam_rt import artifacts, download
from esam_rt.artifacts import Listener, checkpoint_of, checkpoint_sha256, exported, onnx_model
from esam_rt.errors import ModelError, SettingsError
from esam_rt.export import files as export_files
from esam_rt.models import MODELS, WEIGHTS, sha256_of

TINY = MODELS["tiny"]


@pytest.fixture
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("ESAM_RT_CACHE", str(tmp_path / "cache"))
    return tmp_path / "cache"


@pytest.fixture
def hashed(monkeypatch: pytest.MonkeyPatch) -> list[Path]:
    """The files that were hashed, all of them large enough to be remembered."""
    files: list[Path] = []

    def count(path: Path) -> str:
        files.append(path)
        return sha256_of(path)

    monkeypatch.setattr(artifacts, "sha256_of", count)
    monkeypatch.setattr(artifacts, "REMEMBERED_BYTES", 0)
    return files


def test_a_hash_is_remembered_until_the_file_changes(cache: Path, tmp_path: Path, hashed: list[Path]) -> None:
    file = tmp_path / "sam.pth"
    file.write_bytes(b"one")
    digest = checkpoint_sha256(file)
    assert digest == sha256_of(file)
    assert checkpoint_sha256(file) == digest
    assert hashed == [file]
    state = file.stat()
    file.write_bytes(b"two")  # as long, and with the old time of change
    os.utime(file, ns=(state.st_atime_ns, state.st_mtime_ns))
    assert checkpoint_sha256(file) == sha256_of(file) != digest
    assert hashed == [file, file]


@pytest.mark.parametrize("note", ["", "[]", "{}", "null", '{"size_bytes": 3}'])
def test_a_note_that_says_nothing_is_written_anew(cache: Path, tmp_path: Path, hashed: list[Path], note: str) -> None:
    file = tmp_path / "sam.pth"
    file.write_bytes(b"one")
    digest = checkpoint_sha256(file)
    (remembered,) = (cache / "hashes").iterdir()
    remembered.write_text(note)
    assert [checkpoint_sha256(file) for _ in range(2)] == [digest] * 2
    assert hashed == [file, file]


def test_a_folder_has_the_hash_of_its_tensors(cache: Path, tmp_path: Path) -> None:
    folder = tmp_path / "sam"
    folder.mkdir()
    (folder / "model.safetensors.index.json").write_text(
        json.dumps({"weight_map": {"a": "1.safetensors", "b": "2.safetensors"}})
    )
    for name in ("1", "2"):
        (folder / f"{name}.safetensors").write_text(name)
    digest = checkpoint_sha256(folder)
    (folder / "README.md").write_text("of no matter")
    assert checkpoint_sha256(folder) == digest
    (folder / "2.safetensors").write_text("3")
    assert checkpoint_sha256(folder) != digest


def test_which_checkpoint(cache: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    told = Listener(downloaded=lambda there, total: None)
    asked: list[object] = []

    def fetch(*arguments: object) -> Path:
        asked.append(arguments)
        return tmp_path / "published.pth"

    monkeypatch.setattr(download, "fetch_checkpoint", fetch)
    assert checkpoint_of(TINY) == WEIGHTS / "tiny.safetensors"
    assert checkpoint_of(MODELS["vit_b"], tmp_path / "mine.pth") == tmp_path / "mine.pth"
    assert asked == []
    assert checkpoint_of(MODELS["vit_b"], None, told) == tmp_path / "published.pth"
    assert asked == [(MODELS["vit_b"], cache / "checkpoints", told.downloaded)]


def test_each_precision_is_exported_once(cache: Path) -> None:
    written: list[str] = []
    told = Listener(writing=written.append)
    assert exported(TINY) == []
    full, half = (onnx_model(TINY, precision=precision, listener=told) for precision in ("fp32", "fp16"))
    assert written == ["encoder.onnx", "decoder.onnx", "masks.onnx", "logits.onnx"] * 2
    assert full.checkpoint_sha256 == half.checkpoint_sha256
    assert half.encoder.stat().st_size < 0.6 * full.encoder.stat().st_size
    assert onnx_model(TINY, precision="fp16", listener=told) == half
    assert len(written) == 8
    assert exported(TINY) == ["fp16", "fp32"]


def test_a_form_that_the_model_lacks(cache: Path) -> None:
    with pytest.raises(SettingsError, match="Model tiny has no choice of attention forms, only vit_b"):
        onnx_model(TINY, attention="concat")
    assert exported(TINY) == []


def remove(file: Path) -> None:
    file.unlink()


def cut(file: Path) -> None:
    file.write_bytes(file.read_bytes()[:-1])


def flip(file: Path) -> None:
    content = bytearray(file.read_bytes())
    content[100] ^= 1
    file.write_bytes(content)


def link(file: Path) -> None:
    file.rename(file.with_name("elsewhere"))
    file.symlink_to(file.with_name("elsewhere"))


@pytest.mark.parametrize("damage", [remove, cut, flip, link])
@pytest.mark.parametrize("name", ["encoder.onnx", "encoder.onnx.data"])
def test_damage_is_mended(
    cache: Path, monkeypatch: pytest.MonkeyPatch, damage: Callable[[Path], None], name: str
) -> None:
    monkeypatch.setattr(export_files, "INLINE_BYTES", 8 << 20)
    model = onnx_model(TINY)
    assert sorted(f.name for f in model.files) == [
        *("decoder.onnx", "encoder.onnx", "encoder.onnx.data", "logits.onnx", "masks.onnx")
    ]
    file = model.encoder.with_name(name)
    whole = file.read_bytes()
    damage(file)
    assert onnx_model(TINY) == model
    assert not file.is_symlink()
    assert file.read_bytes() == whole


def test_a_checkpoint_that_cannot_be_read(cache: Path, tmp_path: Path) -> None:
    with pytest.raises(ModelError, match=r"gone\.pth: found no such file"):
        onnx_model(MODELS["vit_b"], tmp_path / "gone.pth")
