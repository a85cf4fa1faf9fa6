"""Graphs that a user brings to `build-engine`: what is taken, and what is said of folders that are not whole."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path

import onnx
import pytest
from onnx.external_data_helper import set_external_data

from esam_rt.engines.tensorrt.builder import BuildOptions
from esam_rt.errors import ModelError
from esam_rt.loading.engine_cache import engine_set
from esam_rt.loading.engine_spec import EngineSpec
from esam_rt.loading.exported_folder import given_graphs
from esam_rt.loading.onnx_cache import export_to, onnx_model
from esam_rt.sam.models import MODELS, WEIGHTS
from esam_rt.storage.hashing import sha256_of
from esam_rt.storage.manifest import MANIFEST
from tests.cli.test_app import assert_one_error_line, call

TINY = MODELS["tiny"]
GRAPHS = ("encoder.onnx", "decoder.onnx", "mask_head.onnx", "logits.onnx")


@pytest.fixture(scope="module")
def exported(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("exported")
    export_to(TINY, WEIGHTS / "tiny.safetensors", folder, "fp16")
    return folder


@pytest.fixture
def folder(exported: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A copy, with new times, as from another machine."""
    monkeypatch.setenv("ESAM_RT_CACHE", str(tmp_path / "cache"))
    shutil.copytree(exported, tmp_path / "mine", copy_function=shutil.copyfile)
    return tmp_path / "mine"


def list_anew(folder: Path) -> None:
    """A manifest that knows of every change."""
    manifest = {p.name: {"sha256": sha256_of(p)} for p in folder.iterdir() if p.name != MANIFEST}
    (folder / MANIFEST).write_text(json.dumps(manifest))


def say(path: Path, key: str, value: str | None) -> None:
    """Change what a graph says of itself; None: nothing."""
    model = onnx.load(path)
    (entry,) = (e for e in model.metadata_props if e.key == f"esam_rt.{key}")
    if value is None:
        model.metadata_props.remove(entry)
    else:
        entry.value = value
    onnx.save(model, path)


def test_it_says_what_it_is(folder: Path) -> None:
    given = given_graphs(folder)
    assert (given.row, given.precision) == (TINY, "fp16")
    assert given.onnx.checkpoint_sha256 == sha256_of(WEIGHTS / "tiny.safetensors")
    assert given.onnx.files == tuple(folder / name for name in GRAPHS)
    assert given.onnx.mask_head == folder / "mask_head.onnx"


def test_data_beside_a_graph_belong_to_it(folder: Path) -> None:
    model = onnx.load(folder / "encoder.onnx")
    tensor = max(model.graph.initializer, key=lambda t: len(t.raw_data))
    (folder / "encoder.onnx.data").write_bytes(tensor.raw_data)
    set_external_data(tensor, "encoder.onnx.data")
    tensor.ClearField("raw_data")
    onnx.save(model, folder / "encoder.onnx")
    list_anew(folder)
    assert given_graphs(folder).onnx.files[1] == folder / "encoder.onnx.data"
    (folder / "encoder.onnx.data").write_bytes(bytes((folder / "encoder.onnx.data").stat().st_size))
    with pytest.raises(ModelError, match=r"encoder\.onnx\.data: found SHA-256 .*, expected .* of esam-rt\.json"):
        given_graphs(folder)


def without_manifest(folder: Path) -> None:
    (folder / MANIFEST).unlink()


def broken_manifest(folder: Path) -> None:
    (folder / MANIFEST).write_text("[")


def without_an_entry(folder: Path) -> None:
    manifest = json.loads((folder / MANIFEST).read_text())
    del manifest["mask_head.onnx"]
    (folder / MANIFEST).write_text(json.dumps(manifest))


def without_a_hash(folder: Path) -> None:
    manifest = json.loads((folder / MANIFEST).read_text())
    manifest["mask_head.onnx"] = {"sha256": None}
    (folder / MANIFEST).write_text(json.dumps(manifest))


def without_a_graph(folder: Path) -> None:
    (folder / "logits.onnx").unlink()


def with_a_link(folder: Path) -> None:
    (folder / "logits.onnx").rename(folder / "elsewhere.onnx")
    (folder / "logits.onnx").symlink_to("elsewhere.onnx")


def changed(folder: Path) -> None:
    say(folder / "decoder.onnx", "precision", "fp32")


def of_another_precision(folder: Path) -> None:
    say(folder / "decoder.onnx", "precision", "fp32")
    list_anew(folder)


def of_another_checkpoint(folder: Path) -> None:
    say(folder / "mask_head.onnx", "checkpoint_sha256", "0" * 64)
    list_anew(folder)


def of_another_program(folder: Path) -> None:
    say(folder / "logits.onnx", "model", None)
    list_anew(folder)


def of_an_older_exporter(folder: Path) -> None:
    for name in GRAPHS:
        say(folder / name, "exporter_version", "1")
    list_anew(folder)


def of_an_unknown_model(folder: Path) -> None:
    for name in GRAPHS:
        say(folder / name, "model", "sam9")
    list_anew(folder)


def no_graph(folder: Path) -> None:
    (folder / "encoder.onnx").write_text("version https://git-lfs")
    list_anew(folder)


def outside(folder: Path) -> None:
    model = onnx.load(folder / "encoder.onnx")
    set_external_data(model.graph.initializer[0], "../secret")
    (folder / "encoder.onnx").write_bytes(model.SerializeToString())
    list_anew(folder)


DAMAGE: dict[Callable[[Path], None], str] = {
    without_manifest: r"esam-rt\.json: found no such file, expected encoder\.onnx, .* there",
    broken_manifest: r"esam-rt\.json: found no list of these graphs",
    without_an_entry: r"esam-rt\.json: found no list of these graphs",
    without_a_hash: r"mask_head\.onnx: found SHA-256 .*, expected None",
    without_a_graph: r"logits\.onnx: found no such file",
    with_a_link: r"logits\.onnx: found no such file",
    changed: r"decoder\.onnx: found SHA-256 .*damaged or of another export.*esam-rt export --out",
    of_another_precision: r"decoder\.onnx: precision: found 'fp32', expected 'fp16' of encoder\.onnx",
    of_another_checkpoint: r"mask_head\.onnx: checkpoint_sha256: found '0000",
    of_another_program: r"logits\.onnx: model: found '', expected 'tiny'",
    of_an_older_exporter: r"encoder\.onnx: exporter_version: found '1', expected \d+",
    of_an_unknown_model: r"encoder\.onnx: model: found 'sam9', expected tiny or",
    no_graph: r"encoder\.onnx: expected a whole ONNX model",
    outside: r"encoder\.onnx: tensor .*found its data at '\.\./secret'",
}


@pytest.mark.parametrize("damage", DAMAGE)
def test_what_is_not_whole_is_named(folder: Path, damage: Callable[[Path], None]) -> None:
    damage(folder)
    with pytest.raises(ModelError, match=DAMAGE[damage]):
        given_graphs(folder)


def test_what_is_no_folder(folder: Path) -> None:
    with pytest.raises(ModelError, match=r"encoder\.onnx: found a file, expected the folder that esam-rt export --out"):
        given_graphs(folder / "encoder.onnx")
    with pytest.raises(ModelError, match=r"gone: found no such folder, expected the folder"):
        given_graphs(folder / "gone")


# The command line, with the real library.


def test_engines_of_given_graphs_are_those_of_the_model(folder: Path, tmp_path: Path) -> None:
    """The same graphs make the same key, so that a run finds them in the store."""
    pytest.importorskip("tensorrt_rtx")
    result = call("build-engine", "--onnx", folder, "--target", "sm_86", "--max-batch", "8", "--json")
    assert (result.exit_code, result.stderr) == (0, "")
    built = json.loads(result.stdout)
    assert [built[key] for key in ("model", "precision")] == ["tiny", "fp16"]
    assert not (tmp_path / "cache" / "onnx").exists(), "nothing was exported"
    options = BuildOptions(("sm_86",), max_batch=8)
    there = engine_set(TINY, EngineSpec("tensorrt-rtx", options=options), build=False)
    assert str(there.folder) == built["folder"]
    again = call("build-engine", "tiny", "--onnx", folder, "--target", "sm_86", "--out", tmp_path / "out")
    assert again.exit_code == 0
    assert "Self-test skipped: no matching GPU." in again.stdout


@pytest.mark.parametrize(
    ("arguments", "code", "words"),
    [
        ((), 2, ("MODEL is missing", "--onnx FOLDER")),
        (("vit_b", "--onnx", "mine"), 2, ("MODEL vit_b: the graphs of mine are of tiny",)),
        (("--onnx", "mine", "--precision", "fp32"), 2, ("--precision fp32: the graphs of mine are of fp16",)),
        (("--onnx", "mine", "--backend", "onnxruntime"), 2, ("--onnx mine", "ONNX Runtime runs the graphs")),
        (("--onnx", "mine", "--no-fusion"), 2, ("--no-fusion", "--attention concat")),
        (
            ("--onnx", "mine", "--checkpoint", "mine/mask_head.onnx"),
            3,
            ("--checkpoint mine/mask_head.onnx: found SHA-256",),
        ),
        (("--onnx", "mine/mask_head.onnx"), 3, ("mine/mask_head.onnx: found a file",)),
    ],
)
def test_mistakes(
    folder: Path, monkeypatch: pytest.MonkeyPatch, arguments: tuple[str, ...], code: int, words: tuple[str, ...]
) -> None:
    monkeypatch.chdir(folder.parent)
    result = call("build-engine", *arguments, "--target", "sm_86")
    assert result.exit_code == code
    assert_one_error_line(result, *words)


def test_fp32_graphs_of_the_cache_may_be_given_too(folder: Path) -> None:
    files = onnx_model(TINY)
    assert given_graphs(files.encoder.parent).onnx == files
