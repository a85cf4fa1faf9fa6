"""The cache: hashes that are remembered, exports that are made once for each form, files that are damaged."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest

from esam_rt.errors import ModelError, OutputError, SettingsError
from esam_rt.export.checkpoints.checkpoint_hash import checkpoint_sha256
from esam_rt.export.graphs import graph_writer as export_files
from esam_rt.loading import download
from esam_rt.loading.checkpoints import checkpoint_of
from esam_rt.loading.events import Event, Writing
from esam_rt.loading.onnx_cache import export_to, exported, onnx_model
from esam_rt.sam.models import MODELS, WEIGHTS, Remote
from esam_rt.storage import hashing
from esam_rt.storage.hashing import sha256_of
from esam_rt.storage.manifest import MANIFEST, is_whole
from tests.storage.test_json_files import DAMAGE
from tests.support.events import Events
from tests.support.processes import GUARD_S

TINY = MODELS["tiny"]
ROOT = Path(__file__).parents[2]


@pytest.fixture(name="folder")
def cache_of_the_test(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("ESAM_RT_CACHE", str(tmp_path / "cache"))
    return tmp_path / "cache"


@pytest.fixture
def hashed(monkeypatch: pytest.MonkeyPatch) -> list[Path]:
    """The files that were hashed, all of them large enough to be remembered."""
    files: list[Path] = []

    def count(path: Path) -> str:
        files.append(path)
        return sha256_of(path)

    monkeypatch.setattr(hashing, "sha256_of", count)
    monkeypatch.setattr(hashing, "REMEMBERED_BYTES", 0)
    return files


def test_a_hash_is_remembered_until_the_file_changes(folder: Path, tmp_path: Path, hashed: list[Path]) -> None:
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
def test_a_note_that_says_nothing_is_written_anew(folder: Path, tmp_path: Path, hashed: list[Path], note: str) -> None:
    file = tmp_path / "sam.pth"
    file.write_bytes(b"one")
    digest = checkpoint_sha256(file)
    (remembered,) = (folder / "hashes").iterdir()
    remembered.write_text(note)
    assert [checkpoint_sha256(file) for _ in range(2)] == [digest] * 2
    assert hashed == [file, file]


def test_a_folder_has_the_hash_of_its_tensors(folder: Path, tmp_path: Path) -> None:
    sam = tmp_path / "sam"
    sam.mkdir()
    (sam / "model.safetensors.index.json").write_text(
        json.dumps({"weight_map": {"a": "1.safetensors", "b": "2.safetensors"}})
    )
    for name in ("1", "2"):
        (sam / f"{name}.safetensors").write_text(name)
    digest = checkpoint_sha256(sam)
    (sam / "README.md").write_text("of no matter")
    assert checkpoint_sha256(sam) == digest
    (sam / "2.safetensors").write_text("3")
    assert checkpoint_sha256(sam) != digest


def test_which_checkpoint(folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    told = Events()
    asked: list[object] = []

    def fetch(*arguments: object) -> Path:
        asked.append(arguments)
        return tmp_path / "published.pth"

    monkeypatch.setattr(download, "fetch_checkpoint", fetch)
    assert checkpoint_of(TINY) == WEIGHTS / "tiny.safetensors"
    assert checkpoint_of(MODELS["vit_b"], tmp_path / "mine.pth") == tmp_path / "mine.pth"
    assert asked == []
    assert checkpoint_of(MODELS["vit_b"], None, told) == tmp_path / "published.pth"
    assert asked == [(MODELS["vit_b"], folder / "checkpoints", told)]


def test_each_precision_is_exported_once(folder: Path) -> None:
    told = Events()
    assert exported(TINY) == []
    full, half = (onnx_model(TINY, precision=precision, on_event=told) for precision in ("fp32", "fp16"))
    assert told.written == ["encoder.onnx", "decoder.onnx", "mask_head.onnx", "logits.onnx"] * 2
    assert full.checkpoint_sha256 == half.checkpoint_sha256
    assert half.encoder.stat().st_size < 0.6 * full.encoder.stat().st_size
    assert onnx_model(TINY, precision="fp16", on_event=told) == half
    assert len(told.written) == 8
    assert exported(TINY) == ["fp16", "fp32"]


def test_a_form_that_the_model_lacks(folder: Path) -> None:
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
    folder: Path, monkeypatch: pytest.MonkeyPatch, damage: Callable[[Path], None], name: str
) -> None:
    monkeypatch.setattr(export_files, "INLINE_BYTES", 8 << 20)
    model = onnx_model(TINY)
    assert sorted(f.name for f in model.files) == [
        *("decoder.onnx", "encoder.onnx", "encoder.onnx.data", "logits.onnx", "mask_head.onnx")
    ]
    file = model.encoder.with_name(name)
    whole = file.read_bytes()
    damage(file)
    assert onnx_model(TINY) == model
    assert not file.is_symlink()
    assert file.read_bytes() == whole


def test_a_flipped_sign_is_mended(folder: Path) -> None:
    """The file keeps its size and its times. Its graph would load, and its masks would be wrong."""
    file = onnx_model(TINY).encoder
    whole, state = file.read_bytes(), file.stat()
    middle = len(whole) // 2
    file.write_bytes(whole[:middle] + bytes([whole[middle] ^ 0x80]) + whole[middle + 1 :])
    os.utime(file, ns=(state.st_atime_ns, state.st_mtime_ns))
    onnx_model(TINY)
    assert file.read_bytes() == whole


def test_a_large_graph_is_hashed_once(folder: Path, hashed: list[Path]) -> None:
    files = onnx_model(TINY).files
    hashed.clear()
    for _ in range(2):
        onnx_model(TINY)
    assert sorted(path for path in hashed if path.suffix == ".onnx") == sorted(files)


@pytest.mark.parametrize("damage", ["a folder", "a pipe", "nested"])
def test_a_damaged_manifest_is_made_anew(folder: Path, damage: str) -> None:
    model = onnx_model(TINY)
    manifest = model.encoder.with_name(MANIFEST)
    whole = manifest.read_bytes()
    manifest.unlink()
    DAMAGE[damage](manifest)
    assert onnx_model(TINY) == model
    assert manifest.read_bytes() == whole


@pytest.mark.skipif(sys.platform == "win32", reason="Windows keeps no modes")
def test_graphs_that_others_can_write_are_made_anew(folder: Path) -> None:
    told = Events()
    encoder = onnx_model(TINY).encoder
    encoder.chmod(0o666)
    for path in encoder.parents[:2]:  # nobody else has put a file there: they only lose the permission
        path.chmod(0o777)
    for _ in range(2):
        onnx_model(TINY, on_event=told)
    assert len(told.written) == 4  # once
    assert all(path.stat().st_mode & 0o022 == 0 for path in (encoder, *encoder.parents[:2]))


@pytest.mark.skipif(not hasattr(os, "geteuid") or os.geteuid() != 0, reason="only root gives files away")
@pytest.mark.parametrize("level", [0, 1])
def test_graphs_of_another_user_are_not_used(
    folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture, level: int
) -> None:
    """A model that ships is exported to a temporary folder. For a larger one the user has to choose a folder."""
    (tmp_path / "tmp").mkdir()
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path / "tmp"))
    encoder = onnx_model(TINY).encoder
    os.chown(encoder.parents[level], 12345, 12345)
    assert onnx_model(TINY).encoder == tmp_path / "tmp" / f"esam-rt-{os.geteuid()}" / encoder.relative_to(folder)
    (record,) = caplog.records
    assert "others can write this folder, so its content is not trusted; using" in record.getMessage()
    with pytest.raises(OutputError, match=r"others can write this folder.*ESAM_RT_CACHE"):
        onnx_model(replace(TINY, checkpoint=None), WEIGHTS / "tiny.safetensors")


@pytest.mark.skipif(sys.platform == "win32", reason="Windows keeps no modes")
def test_a_cache_is_trusted_with_any_umask(folder: Path) -> None:
    told = Events()
    before = os.umask(0)
    try:
        for _ in range(2):
            onnx_model(TINY, on_event=told)
    finally:
        os.umask(before)
    assert len(told.written) == 4


@pytest.mark.skipif(sys.platform == "win32", reason="Windows keeps no modes")
@pytest.mark.parametrize("name", ["hashes", "note"])
def test_a_remembered_hash_that_others_can_write_is_not_used(
    folder: Path, tmp_path: Path, hashed: list[Path], name: str
) -> None:
    file = tmp_path / "sam.pth"
    file.write_bytes(b"one")
    digest = checkpoint_sha256(file)
    (note,) = (folder / "hashes").iterdir()
    note.write_text(note.read_text().replace(digest, "0" * 64))
    (note if name == "note" else note.parent).chmod(0o777)
    assert checkpoint_sha256(file) == digest


def test_a_checkpoint_that_cannot_be_read(folder: Path, tmp_path: Path) -> None:
    with pytest.raises(ModelError, match=r"gone\.pth: found no such file"):
        onnx_model(MODELS["vit_b"], tmp_path / "gone.pth")


def test_a_published_file_is_hashed_once(
    folder: Path, tmp_path: Path, hashed: list[Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    published = folder / "checkpoints" / "tiny.safetensors"
    published.parent.mkdir(parents=True)
    shutil.copy(WEIGHTS / "tiny.safetensors", published)
    remote = Remote("https://nowhere.invalid/tiny.safetensors", published.stat().st_size, sha256_of(published))
    row = replace(TINY, checkpoint=None, remote=remote)
    first = onnx_model(row)
    assert onnx_model(row) == first
    assert hashed.count(published) == 1


@pytest.mark.parametrize("kind", ["pipe", "device"])
def test_what_never_ends_is_not_read(folder: Path, tmp_path: Path, kind: str) -> None:
    os.mkfifo(tmp_path / "pipe")
    with pytest.raises(ModelError, match="pipe or device"):
        onnx_model(MODELS["vit_b"], tmp_path / "pipe" if kind == "pipe" else Path("/dev/zero"))


def test_a_cache_that_cannot_be_written_is_not_needed_elsewhere(
    folder: Path, tmp_path: Path, hashed: list[Path]
) -> None:
    folder.write_text("in the way")
    files = export_to(TINY, WEIGHTS / "tiny.safetensors", tmp_path / "out")
    assert all(file.is_file() for file in files)
    with pytest.raises(OutputError, match="Set ESAM_RT_CACHE"):
        onnx_model(TINY)


def test_an_interrupt_leaves_nothing_that_passes_for_whole(folder: Path, tmp_path: Path) -> None:
    def interrupt(event: Event) -> None:
        if event == Writing("mask_head.onnx"):
            raise KeyboardInterrupt

    out = tmp_path / "out"
    earlier = {f: f.read_bytes() for f in export_to(TINY, WEIGHTS / "tiny.safetensors", out)}
    with pytest.raises(KeyboardInterrupt):
        export_to(TINY, WEIGHTS / "tiny.safetensors", out, "fp16", None, interrupt)
    assert {f: f.read_bytes() for f in out.iterdir() if f.name != MANIFEST} == earlier
    assert is_whole(out, [f.name for f in earlier])


def test_what_a_killed_export_left_is_removed(folder: Path) -> None:
    model = onnx_model(TINY)
    left = model.encoder.with_name(".esam-rt-killed")
    left.mkdir()
    (left / "encoder.onnx.data").write_bytes(b"half")
    model.encoder.unlink()
    onnx_model(TINY)
    assert not left.exists()


def test_two_processes_export_once(folder: Path) -> None:
    code = (
        "from esam_rt.loading.onnx_cache import onnx_model\n"
        "from esam_rt.sam.models import MODELS\n"
        "onnx_model(MODELS['tiny'], on_event=lambda e: print(getattr(e, 'file_name', '')))\n"
    )
    command = [sys.executable, "-c", code]
    processes = [subprocess.Popen(command, stdout=subprocess.PIPE, text=True, cwd=ROOT) for _ in range(2)]
    printed = sorted(process.communicate(timeout=GUARD_S)[0] for process in processes)
    assert [process.returncode for process in processes] == [0, 0]
    assert [text.split() for text in printed] == [[], ["encoder.onnx", "decoder.onnx", "mask_head.onnx", "logits.onnx"]]


def test_the_default_form_by_name_is_the_default(folder: Path) -> None:
    for form in (None, "bias"):
        with pytest.raises(ModelError):  # of another architecture: only the folder matters here
            onnx_model(MODELS["vit_b"], WEIGHTS / "tiny.safetensors", attention=form)
    assert len(list((folder / "onnx").glob("*.lock"))) == 1
