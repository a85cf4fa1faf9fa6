"""The paper's tables as commands: rows of settings over the same photos."""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any
from xml.etree import ElementTree

import numpy as np
import pytest
from PIL import Image
from pycocotools import mask as coco_mask
from typer.testing import CliRunner, Result

from esam_rt.cli import app
from esam_rt.errors import EngineError, SettingsError
from esam_rt.evaluation.metrics.bootstrap import Estimate
from esam_rt.evaluation.paper_tables import table_scores
from esam_rt.evaluation.paper_tables.table_rows import MODULES, TABLES, build_rows
from esam_rt.evaluation.reports.interval_plot import interval_plot
from esam_rt.sam.predictor import Sam
from esam_rt.segmenter import METHODS
from esam_rt.settings import Settings
from tests.support.scene import Scene, photo_of, quadrants


def call(*arguments: str | Path) -> Result:
    return CliRunner().invoke(app.app, ["eval", *(str(a) for a in arguments)])


@pytest.fixture
def data(tmp_path: Path) -> Path:
    """images/0.png and 1.png of the four quadrants, truth.json with them as entities, maps/ as of two annotators."""
    labels = quadrants()[0].repeat(4, 0).repeat(4, 1)
    images, annotations = [], []
    for folder in ("images", "maps"):
        (tmp_path / folder).mkdir()
    for i in range(2):
        Image.fromarray(photo_of(quadrants()[0], seed=i)).save(tmp_path / f"images/{i}.png")
        images.append({"id": i, "file_name": f"{i}.png", "height": 256, "width": 256})
        for annotator in range(2):
            Image.fromarray(labels.astype(np.uint8)).save(tmp_path / f"maps/{i}_{annotator}.png")
        for k in range(1, 5):
            rle = coco_mask.encode(np.asfortranarray(labels == k, np.uint8))
            mask = {"size": [256, 256], "counts": rle["counts"].decode("ascii")}
            common = {"category_id": 1, "iscrowd": 0, "area": 128 * 128, "bbox": [0, 0, 1, 1]}
            annotations.append({"id": 4 * i + k, "image_id": i, "segmentation": mask, **common})
    truth = {"images": images, "annotations": annotations, "categories": [{"id": 1, "name": "entity"}]}
    (tmp_path / "truth.json").write_text(json.dumps(truth))
    return tmp_path


@pytest.fixture
def scene(monkeypatch: pytest.MonkeyPatch) -> list[Sam]:
    """`load_sam` gives a scene whose best masks are sub-parts: the object level finds the objects."""
    loaded: list[Sam] = []

    def load(model: str, *rest: Any) -> Sam:
        loaded.append(Scene.of_label_maps(quadrants(), score=(0.90, 0.91, 0.99)).sam())
        loaded[-1].model = replace(loaded[-1].model, name=model)
        return loaded[-1]

    monkeypatch.setattr("esam_rt.loading.loader.load_sam", load)
    return loaded


def arguments(data: Path, *more: str | Path) -> list[str | Path]:
    return [
        *("--gt", data / "truth.json", "--images", data / "images", "--out", data / "out", "--preset", "fast"),
        *("--set", "emr.tau=0.2"),
        *more,
    ]


def record(data: Path) -> dict[str, Any]:
    read: dict[str, Any] = json.loads((data / "out/table.json").read_text())
    return read


def test_table_2(data: Path, scene: list[Sam]) -> None:
    result = call(*arguments(data, "--table", "2", "--row", "strict:filters.score_min=1,usr.enabled=false"))
    assert result.exit_code == 0, result.output
    table = record(data)
    ap = {name: row["metrics"]["AP"]["value"] for name, row in table["results"].items()}
    assert ap["SAM^O"] == pytest.approx(100)
    assert max(ap["SAM"], ap["E-SAM"]) < 80
    assert ap["strict"] == 0
    assert table["results"]["SAM^O"]["gain"]["value"] == pytest.approx(100 - ap["SAM"])
    assert table["results"]["strict"]["entities"] == 0
    assert table["rows"]["strict"] == {"method": "e-sam", "changes": {"filters.score_min": "1", "usr.enabled": "false"}}
    assert table["settings"]["emr"]["tau"] == 0.2
    assert "E-SAM" in result.stdout
    assert "2 photos. Look at" in result.stdout
    markdown = (data / "out/table.md").read_text().splitlines()
    assert markdown[0].startswith("| row | AP | 95 % interval | vs SAM | gain interval | AP50 | AP75 | entities |")
    assert "| SAM^O | 100.00 | 100.00 to 100.00 |" in markdown[3]
    assert {line.count("|") for line in markdown} == {9}, "the paper has no figures for this model"
    drawn = ElementTree.parse(data / "out/table.svg")
    assert len(drawn.findall(".//{*}circle")) == 4
    assert scene[0].engines.encoder.closed  # type: ignore[attr-defined]


def test_a_table_is_gone_on_with_and_decodes_no_photo_twice(data: Path, scene: list[Sam]) -> None:
    assert call(*arguments(data, "--row", "a:emr.delta=0.1", "--row", "b:emr.delta=0.2")).exit_code == 0
    whole = record(data)
    journal = data / "out/rows.jsonl"
    lines = journal.read_text().splitlines(keepends=True)
    journal.write_text(lines[0] + lines[1][:40])  # interrupted while the second was written
    refused = call(*arguments(data, "--row", "a:emr.delta=0.1", "--row", "b:emr.delta=0.2"))
    assert refused.exit_code == 2
    assert "holds an earlier table; give --resume" in refused.stderr
    other = call(*arguments(data, "--row", "a:emr.delta=0.1", "--resume"))
    assert other.exit_code == 2
    assert "rows.b" in other.stderr or "rows" in other.stderr
    (data / "images/0.png").write_bytes((data / "images/0.png").read_bytes())
    resumed = call(*arguments(data, "--row", "a:emr.delta=0.1", "--row", "b:emr.delta=0.2", "--resume"))
    assert resumed.exit_code == 0, resumed.output
    assert record(data)["results"] == whole["results"]
    assert len(journal.read_text().splitlines()) == 2

    def broken(feed: Mapping[str, Any], outputs_on_device: object = ()) -> dict[str, Any]:
        raise EngineError("not needed")

    def load(model: str, *rest: Any) -> Sam:
        sam = Scene.of_label_maps(quadrants()).sam()
        sam.model = replace(sam.model, name=model)
        sam.engines.encoder.infer = broken  # type: ignore[assignment]
        return sam

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("esam_rt.loading.loader.load_sam", load)
        again = call(*arguments(data, "--row", "a:emr.delta=0.1", "--row", "b:emr.delta=0.2", "--resume", "--json"))
    assert again.exit_code == 0, again.output
    assert json.loads(again.stdout)["results"] == whole["results"]
    assert call(*arguments(data, "--row", "a:emr.delta=0.1", "--overwrite")).exit_code == 0
    assert list(record(data)["results"]) == ["a"]


def test_two_tables_at_once_do_not_share_a_folder(
    data: Path, scene: list[Sam], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("ESAM_RT_CACHE", str(data / "cache"))
    other: list[Result] = []

    def score(*scored: Any) -> Any:
        if not other:
            other.append(call(*arguments(data, "--row", "b:emr.delta=0.2", "--overwrite")))
        return right(*scored)

    right = table_scores.score
    monkeypatch.setattr(table_scores, "score", score)
    assert call(*arguments(data, "--row", "a:emr.delta=0.1")).exit_code == 0
    assert other[0].exit_code == 2
    assert "another run is writing there" in other[0].stderr and other[0].stderr.count("\n") == 1
    assert list(record(data)["results"]) == ["a"]


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (lambda line: line + line, "line 2 repeats photo 0"),
        (lambda line: line.replace('"a"', '"b"'), "line 1 has the rows 'b'"),
        (lambda line: line.replace('"found": {', '"found": {"b": [], '), "line 1 has the rows 'a', 'b'"),
        (lambda line: line.replace("image_id", "image"), "line 1 was not written by esam-rt"),
        (lambda line: line.replace("{", "["), "line 1 was not written by esam-rt"),
        (lambda line: "3\n", "line 1 was not written by esam-rt"),
    ],
)
def test_a_journal_that_no_table_of_these_rows_wrote_is_refused(
    data: Path, scene: list[Sam], change: Callable[[str], str], words: str
) -> None:
    assert call(*arguments(data, "--row", "a:emr.delta=0.1")).exit_code == 0
    journal = data / "out/rows.jsonl"
    first = journal.read_text().splitlines(keepends=True)[0]
    journal.write_text(change(first))
    resumed = call(*arguments(data, "--row", "a:emr.delta=0.1", "--resume"))
    assert (resumed.exit_code, resumed.stderr.count("\n")) == (1, 1), resumed.output
    assert words in resumed.stderr and "--overwrite" in resumed.stderr
    assert journal.read_text() == change(first)


def test_a_row_that_cannot_be_costs_no_earlier_table(data: Path, scene: list[Sam]) -> None:
    assert call(*arguments(data, "--row", "a:emr.delta=0.1")).exit_code == 0
    before = {path.name: path.read_bytes() for path in (data / "out").iterdir()}
    assert call(*arguments(data, "--row", "a:emr.dleta=0.1", "--overwrite")).exit_code == 2
    assert before == {path.name: path.read_bytes() for path in (data / "out").iterdir()}


def test_a_table_is_resumed_with_the_same_photos_and_engines_alone(data: Path, scene: list[Sam]) -> None:
    rows = ("--row", "a:emr.delta=0.1")
    assert call(*arguments(data, *rows)).exit_code == 0
    whole = record(data)
    fewer = call(*arguments(data, *rows, "--resume", "--limit", "1"))
    assert fewer.exit_code == 0, fewer.output
    assert record(data)["photos"] == 1
    assert record(data)["results"]["a"]["entities"] == pytest.approx(whole["results"]["a"]["entities"], abs=1)
    other = call(*arguments(data, *rows, "--resume", "--precision", "fp16"))
    assert (other.exit_code, "engines.precision was" in other.stderr) == (2, True), other.output
    Image.fromarray(photo_of(quadrants()[0], seed=9)[::-1]).save(data / "images/1.png")
    other = call(*arguments(data, *rows, "--resume"))
    assert (other.exit_code, "photo_list_sha256 was" in other.stderr) == (2, True), other.output


def test_all_tables_and_the_seconds_beside_the_papers(data: Path, scene: list[Sam]) -> None:
    result = call(*arguments(data, "--table", "all", "--model", "vit_h"))
    assert result.exit_code == 0, result.output
    table = record(data)
    assert len(table["results"]) == sum(len(build_rows(number, [])) for number in "1234")
    assert table["results"]["1: E-SAM"]["paper"] == {"AP": 50.2, "AP50": 66.8, "AP75": 49.9}
    assert table["results"]["2: E-SAM"]["paper"] == {"AP": 48.9}
    assert table["results"]["2: E-SAM"]["metrics"] == table["results"]["1: E-SAM"]["metrics"]
    assert set(table["seconds"]) == {"encoder", "decoder", "mmg", "emr", "usr", "upsampling", "total"}
    assert all(seconds > 0 for seconds in table["seconds"].values())
    assert re.search(r"total +\d+\.\d+ +9\.84", result.stdout)
    markdown = (data / "out/table.md").read_text()
    assert "\n\n| seconds (Table 5) |  | paper |\n" in markdown
    assert re.search(r"\| encoder \| \d+\.\d+ \| 5\.89 \|\n", markdown)


def test_table_5_alone(data: Path, scene: list[Sam]) -> None:
    assert call(*arguments(data, "--table", "5")).exit_code == 0
    before = record(data)
    assert list(before["results"]) == ["E-SAM"]
    assert before["paper_seconds"] == {}
    assert call(*arguments(data, "--table", "5", "--resume")).exit_code == 0
    assert record(data)["seconds"] == before["seconds"]


def test_rows_of_a_sweep_are_compared_with_its_first(data: Path, scene: list[Sam]) -> None:
    result = call(*arguments(data, "--table", "4", "--row", "no filter:filters.score_min=0"))
    assert result.exit_code == 0, result.output
    results = record(data)["results"]
    value = {name: r["metrics"]["AP"]["value"] for name, r in results.items()}
    for row in (rows := build_rows("4", [])):
        first = next(r for r in rows if r.group == row.group)
        assert results[row.name]["gain"]["value"] == pytest.approx(value[row.name] - value[first.name]), row.name
    assert results["no filter"]["gain"] == {"value": 0, "low": 0, "high": 0}
    lines = (data / "out/table.md").read_text().splitlines()
    assert "| 95 % interval | gain | gain interval |" in lines[0]
    assert {line.split(" | ")[0]: line.split(" | ")[3] == "" for line in lines[2:]}["| θ_O 0.7"]


def test_names_of_rows_are_no_markup(data: Path, scene: list[Sam]) -> None:
    result = call(*arguments(data, "--row", "[/b] x:emr.delta=0.1"))
    assert result.exit_code == 0, result.output
    assert "[/b] x" in result.stdout


def test_files_of_others_are_kept(data: Path, scene: list[Sam]) -> None:
    (data / "out").mkdir()
    (data / "out/table.md").write_text("mine")
    result = call(*arguments(data, "--table", "2", "--overwrite"))
    assert result.exit_code == 2
    assert "may be someone else's" in result.stderr
    assert (data / "out/table.md").read_text() == "mine"


def test_regions(data: Path, scene: list[Sam]) -> None:
    options = ["--images", data / "images", "--out", data / "out", "--preset", "fast", "--table", "superpixels"]
    result = call("--gt", f"bsds:{data / 'maps'}", *options)
    assert result.exit_code == 0, result.output
    results = record(data)["results"]
    covering = {name: row["metrics"]["covering"]["value"] for name, row in results.items()}
    assert covering["E-SAM, SLIC"] > 0.8 > 0.5 > covering["SLIC alone"]
    assert (data / "out/table.md").read_text().startswith("| row | covering | 95 % interval | vs E-SAM, Felzenszwalb |")


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--table", "6"], "Unknown table '6'"),
        (["--row", "a:emr.delta"], "expected NAME:SETTING=VALUE"),
        (["--row", ":emr.delta=1"], "is empty or names two rows"),
        (["--row", "a:emr.delta=1", "--row", "a:emr.tau=1"], "is empty or names two rows"),
        (["--row", "a:emr.dleta=1"], "Unknown setting 'emr.dleta'"),
        (["--row", "a:method=sam"], "Unknown method 'sam'"),
        (["--table", "2", "--predictions", "x.json"], "--table and --row segment by themselves"),
        (["--table", "2", "--method", "amg"], "--method amg: each row of a table has its own"),
    ],
)
def test_what_is_refused(data: Path, scene: list[Sam], options: list[str], message: str) -> None:
    result = call(*arguments(data, *options))
    assert result.exit_code == 2
    assert re.search(re.escape(message), result.stderr)
    assert result.stderr.count("\n") == 1


def test_every_row_of_the_paper_is_a_setting_that_exists() -> None:
    for table in TABLES.values():
        for row in table:
            changed = Settings().with_overrides(row.changes)
            assert row.method in METHODS
            assert changed.emr.gallery == "lazy"
    switches = {tuple(row.changes[f"{m}.enabled"] for m in MODULES) for row in TABLES["3"]}
    assert len(switches) == 8
    best = {row.group: row.name for row in TABLES["4"] if max(row.paper.get("vit_l", (0,))) in (20.3, 35.0, 43.6)}
    assert set(best) == {"θ_O", "γ_O", "δ", "τ", "ρ", "prompts"}
    assert best["prompts"] == "prompts 32/64"
    with pytest.raises(SettingsError, match="is empty or names two rows"):
        build_rows("2", ["SAM:emr.tau=0"])


def test_interval_plot_of_odd_scores() -> None:
    rows = [
        ("none <&>", "", Estimate(None, None, None)),
        ("lone", "g", Estimate(0.5, None, None)),
        ("same", "g", Estimate(0.5, 0.5, 0.5)),
    ]
    drawn = ElementTree.fromstring(interval_plot("a & b", "AP", rows))
    assert drawn.findtext(".//{*}text") == "a & b"
    assert len(drawn.findall(".//{*}circle")) == 2
    assert ElementTree.fromstring(interval_plot("empty", "AP", [])) is not None
