"""The model that ships, on a photo that comes with scikit-image."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import pytest
from skimage import data

from esam_rt import EntitySegmenter, Settings
from esam_rt.errors import ModelError, OutputError
from esam_rt.loading.onnx_cache import onnx_model
from esam_rt.sam.models import MODELS, WEIGHTS
from esam_rt.storage.cache_dir import cache_folder
from tests.test_segmenter import check_invariants


@pytest.fixture(scope="module")
def cache(tmp_path_factory: pytest.TempPathFactory, copy_kernels: Callable[[Path], list[Path]]) -> Iterator[Path]:
    folder = tmp_path_factory.mktemp("cache")
    copy_kernels(folder)
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("ESAM_RT_CACHE", str(folder))
        yield cache_folder()


def test_it_is_small_and_has_a_card() -> None:
    assert sum(p.stat().st_size for p in WEIGHTS.iterdir()) <= 20e6
    card = (WEIGHTS / "MODEL_CARD.md").read_text()
    for part in ("Data", "Terms", "Scores", "use SAM's"):
        assert part in card


@pytest.mark.parametrize("method", ["e-sam", "amg"])
def test_a_real_photo(cache: Path, method: str) -> None:
    photo = data.astronaut()[:, :400]
    with EntitySegmenter("tiny", settings=Settings.preset("fast"), method=method) as segment:
        first, again = segment(photo), segment(photo)
        assert segment.model_info()["name"] == "tiny"
    check_invariants(first, photo.shape[:2])
    np.testing.assert_array_equal(first.labels, again.labels)
    assert len(first) >= 2
    assert np.mean(first.labels > 0) > 0.5
    if method == "e-sam":  # one entity holds the face; a baseline may show its parts
        face = first.labels[90:130, 210:240]
        assert np.bincount(face.ravel()).max() > 0.9 * face.size


def test_the_export_is_made_once_and_again_when_it_is_damaged(cache: Path) -> None:
    files = onnx_model(MODELS["tiny"])
    stamps = [p.stat().st_mtime_ns for p in (files.encoder, files.decoder, files.logits)]
    assert onnx_model(MODELS["tiny"]) == files
    assert [p.stat().st_mtime_ns for p in (files.encoder, files.decoder, files.logits)] == stamps
    whole = files.decoder.read_bytes()
    files.decoder.write_bytes(whole[:1000])
    onnx_model(MODELS["tiny"])
    assert files.decoder.read_bytes() == whole
    manifest = files.encoder.with_name("esam-rt.json")
    assert set(json.loads(manifest.read_text())) == {"encoder.onnx", "decoder.onnx", "mask_head.onnx", "logits.onnx"}


@pytest.mark.parametrize("manifest", ["", "{}", "[]", '{"encoder.onnx": "0"}'])
def test_a_manifest_that_vouches_for_nothing_is_not_believed(cache: Path, manifest: str) -> None:
    files = onnx_model(MODELS["tiny"])
    whole = files.encoder.read_bytes()
    files.encoder.write_bytes(b"")
    files.encoder.with_name("esam-rt.json").write_text(manifest)
    onnx_model(MODELS["tiny"])
    assert files.encoder.read_bytes() == whole


def test_a_whole_cache_is_not_locked(cache: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    files = onnx_model(MODELS["tiny"])

    def refuse(*args: object) -> None:
        raise PermissionError(13, "Permission denied")

    monkeypatch.setattr("esam_rt.loading.onnx_cache.FileLock", refuse)
    assert onnx_model(MODELS["tiny"]) == files
    files.decoder.unlink()
    with pytest.raises(OutputError, match="Permission denied"):
        onnx_model(MODELS["tiny"])


def test_a_checkpoint_that_is_none(cache: Path, tmp_path: Path) -> None:
    with pytest.raises(ModelError, match="found no such file"):
        EntitySegmenter("tiny", checkpoint=tmp_path / "missing.safetensors")
    (tmp_path / "page.safetensors").write_text("<!doctype html>")
    with pytest.raises(ModelError, match=r"page\.safetensors"):
        EntitySegmenter("tiny", checkpoint=tmp_path / "page.safetensors")


def test_a_cache_that_cannot_be_written(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    monkeypatch.setenv("ESAM_RT_CACHE", str(tmp_path / "file" / "cache"))
    with pytest.raises(OutputError, match="Set ESAM_RT_CACHE"):
        onnx_model(MODELS["tiny"])
