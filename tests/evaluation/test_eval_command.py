"""`esam-rt eval` from the command line to scores.json and report.html, with a segmenter that needs no networks."""

from __future__ import annotations

import base64
import io
import json
import re
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any
from xml.etree import ElementTree

import numpy as np
import pytest
from numpy.typing import NDArray
from PIL import ExifTags, Image
from pycocotools import mask as coco_mask
from typer.testing import CliRunner, Result

from esam_rt import evaluation
from esam_rt.cli import app
from esam_rt.errors import DeviceError
from esam_rt.evaluation import EvalOptions, prepare, run_evaluation
from esam_rt.evaluation.reports import plots
from esam_rt.evaluation.reports.eval_report import _true_labels
from tests.support.fake_segmenter import FakeSegmenter
from tests.support.pages import check_policy

H, W = 20, 30
HALVES = np.repeat(np.arange(W)[None] // (W // 2), H, axis=0)  # what the fake segmenter finds, 0 and 1


def rle(mask: NDArray[np.bool_]) -> dict[str, Any]:
    encoded = coco_mask.encode(np.asfortranarray(mask.view(np.uint8)))
    return {"size": list(mask.shape), "counts": encoded["counts"].decode("ascii")}


def call(*arguments: str | Path) -> Result:
    return CliRunner().invoke(app.app, ["eval", *(str(a) for a in arguments)])


def assert_one_error_line(result: Result, exit_code: int, *words: str) -> None:
    assert result.exit_code == exit_code, result.output
    assert result.stdout == ""
    assert result.stderr.count("\n") == 1, result.stderr
    assert result.stderr.startswith("error: ")
    for word in words:
        assert word in result.stderr


@pytest.fixture
def segmenters(monkeypatch: pytest.MonkeyPatch) -> list[dict[str, Any]]:
    """`EntitySegmenter` is a fake; what each was made with."""
    made: list[dict[str, Any]] = []

    def make(model: str, **options: Any) -> FakeSegmenter:
        made.append({"model": model, **options})
        return FakeSegmenter()

    monkeypatch.setattr("esam_rt.segmenter.EntitySegmenter", make)
    return made


def fail_with(monkeypatch: pytest.MonkeyPatch, error: BaseException, at: int) -> None:
    def before(number: int) -> None:
        if number == at:
            raise error

    monkeypatch.setattr("esam_rt.segmenter.EntitySegmenter", lambda model, **options: FakeSegmenter(before))


@pytest.fixture
def data(tmp_path: Path) -> Path:
    """images/ of four photos, and truth.json: of the first, both halves; of the second, one and a crowd; of the third,
    the upper half, which nothing fits; of the fourth, nothing. photos/ has one photo more than the ground truth."""
    images, annotations = [], []
    upper = np.zeros((H, W), bool)
    upper[: H // 2] = True
    entities = [[HALVES == 0, HALVES == 1], [HALVES == 0, HALVES == 1], [upper], []]
    for i, masks in enumerate(entities):
        name = f"set_{i % 2}/{i}.jpg"
        photo = tmp_path / "images" / name
        photo.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(np.full((H, W, 3), 50 * i, np.uint8)).save(photo)
        images.append({"id": 20 - i, "file_name": name, "width": W, "height": H})
        for k, mask in enumerate(masks):
            crowd = int(i == 1 and k == 1)
            annotation = {"id": len(annotations), "image_id": 20 - i, "segmentation": rle(mask), "iscrowd": crowd}
            annotations.append({**annotation, "category_id": k, "area": int(mask.sum())})
    Image.fromarray(np.zeros((H, W, 3), np.uint8)).save(tmp_path / "images" / "more.jpg")
    (tmp_path / "truth.json").write_text(json.dumps({"images": images, "annotations": annotations, "categories": []}))
    return tmp_path


def scores(folder: Path) -> dict[str, Any]:
    record: dict[str, Any] = json.loads((folder / "scores.json").read_bytes())
    return record


def test_photos_are_segmented_and_scored(data: Path, segmenters: list[dict[str, Any]]) -> None:
    out = data / "out"
    result = call(
        *(
            "--images",
            data / "images",
            "--gt",
            data / "truth.json",
            "--out",
            out,
            "--method",
            "amg",
            "--model",
            "small",
        ),
        *("--preset", "fast", "--set", "emr.tau=0.4", "--threads", "3", "--resamples", "50"),
    )
    assert result.exit_code == 0, result.output
    assert result.stderr == ""
    assert "4 photos scored" in result.stdout
    assert str(out / "report.html") in result.stdout
    (made,) = segmenters
    assert (made["model"], made["method"], made["settings"].emr.tau) == ("small", "amg", 0.4)
    assert made["execution"].threads == 3
    record = scores(out)
    assert record["program"] == "esam-rt eval"
    assert record["ground_truth"]["form"] == "coco"
    assert record["run"]["model"] == {"name": "fake", "checkpoint_sha256": "00"}
    assert record["run"]["settings"]["emr"]["tau"] == 0.4
    assert (record["photos_scored"], record["photos_without_results"], record["photos_with_overlapping_masks"]) == (
        4,
        0,
        0,
    )
    photos = {p["name"]: p for p in record["photos"]}
    assert [p["name"] for p in record["photos"]] == ["set_1/3.jpg", "set_0/2.jpg", "set_1/1.jpg", "set_0/0.jpg"]
    assert (photos["set_0/0.jpg"]["AP"], photos["set_0/0.jpg"]["right_at_50"]) == (pytest.approx(100), 2)
    assert (photos["set_1/1.jpg"]["AP"], photos["set_1/1.jpg"]["true"]) == (
        pytest.approx(100),
        1,
    )  # the crowd is ignored
    assert (photos["set_0/2.jpg"]["AP"], photos["set_0/2.jpg"]["found"]) == (0, 2)
    assert (photos["set_1/3.jpg"]["AP"], photos["set_1/3.jpg"]["covered_percent"]) == (None, 100)
    ap = record["metrics"]["AP"]
    assert 0 <= ap["low"] < ap["value"] < ap["high"] <= 100
    assert record["metrics"]["AP_large"] == {"value": None, "low": None, "high": None}
    assert [p["image_id"] for p in record["photos"]] == [17, 18, 19, 20]


def test_finished_results_give_the_same_scores(data: Path, segmenters: list[dict[str, Any]]) -> None:
    gt, images = ("--gt", data / "truth.json"), ("--images", data / "images")
    assert call(*images, *gt, "--out", data / "a").exit_code == 0
    journal = [json.loads(line) for line in (data / "a" / "predictions" / "photos.jsonl").read_text().splitlines()]
    ids = {p["name"].rpartition("/")[2]: p["image_id"] for p in scores(data / "a")["photos"]}
    results = [
        {"image_id": ids[r["name"].rpartition("/")[2]], "segmentation": e["segmentation"], "score": e["score"]}
        for r in journal
        for e in r["entities"]
    ]
    (data / "results.json").write_text(json.dumps(results))
    forms = ("a", "a/predictions", "a/predictions/entities.json", "results.json")
    for number, form in enumerate(forms):
        out = data / f"b{number}"
        result = call(*gt, "--predictions", data / form, "--out", out)
        assert result.exit_code == 0, result.output
        for key in ("metrics", "photos"):
            assert scores(out)[key] == scores(data / "a")[key]
    assert len(segmenters) == 1
    assert scores(data / "b0")["run"]["method"] == "e-sam"
    assert scores(data / "b3")["run"] == {}


def test_json_is_alone_on_stdout_and_quiet_is_silent(data: Path, segmenters: list[dict[str, Any]]) -> None:
    arguments = ("--images", data / "images", "--gt", data / "truth.json", "--out", data / "out")
    result = call(*arguments, "--json")
    printed = json.loads(result.stdout)
    assert printed["metrics"] == scores(data / "out")["metrics"]
    assert (printed["exit_code"], printed["out"]) == (0, str(data / "out"))
    assert "photos" not in printed
    result = call(*arguments, "--quiet", "--overwrite")
    assert (result.exit_code, result.stdout, result.stderr) == (0, "", "")


def test_two_evaluations_at_once_do_not_share_a_folder(
    data: Path, segmenters: list[dict[str, Any]], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("ESAM_RT_CACHE", str(data / "cache"))
    arguments = ("--images", data / "images", "--gt", data / "truth.json", "--out", data / "out")
    others: list[Result] = []

    def score(*scored: Any) -> Any:  # photos are segmented, and their folder is free again
        others.append(call(*arguments, "--limit", "1", "--overwrite"))
        return right(*scored)

    right = run_evaluation.score
    monkeypatch.setattr(run_evaluation, "score", score)
    assert call(*arguments).exit_code == 0
    assert_one_error_line(others[0], 2, "another run is writing there")
    assert len(scores(data / "out")["photos"]) == 4


def test_limit_takes_the_first_ids(data: Path, segmenters: list[dict[str, Any]]) -> None:
    result = call("--images", data / "images", "--gt", data / "truth.json", "--out", data / "out", "--limit", "2")
    assert result.exit_code == 0, result.output
    assert [p["image_id"] for p in scores(data / "out")["photos"]] == [17, 18]
    assert (data / "out" / "predictions" / "photos.jsonl").read_text().count("\n") == 2
    # The others can follow, for what is done is kept.
    result = call("--images", data / "images", "--gt", data / "truth.json", "--out", data / "out", "--resume")
    assert result.exit_code == 0, result.output
    assert len(scores(data / "out")["photos"]) == 4


def test_photos_of_one_name_in_several_folders(data: Path, segmenters: list[dict[str, Any]]) -> None:
    truth = json.loads((data / "truth.json").read_text())
    for image in truth["images"]:
        number, folder = Path(image["file_name"]).stem, f"{image['id']}/images"
        (data / "deep" / folder).mkdir(parents=True)
        shutil.copy(data / "images" / image["file_name"], data / "deep" / folder / "001.jpg")
        image["file_name"] = f"{folder}/001.jpg"
        assert number.isdecimal()
    (data / "deep.json").write_text(json.dumps(truth))
    assert call("--images", data / "images", "--gt", data / "truth.json", "--out", data / "a").exit_code == 0
    result = call("--images", data / "deep", "--gt", data / "deep.json", "--out", data / "b")
    assert result.exit_code == 0, result.output
    assert scores(data / "b")["metrics"] == scores(data / "a")["metrics"]
    (data / "flat").mkdir()
    shutil.copy(data / "images/more.jpg", data / "flat" / "001.jpg")
    result = call("--images", data / "flat", "--gt", data / "deep.json", "--out", data / "c", "--partial")
    assert_one_error_line(result, 1, "001.jpg of", "could be this photo or")


@pytest.mark.parametrize("results", ["a", "a/predictions", "a/predictions/entities.json"])
@pytest.mark.parametrize("option", ["--predictions", "--against"])
def test_results_are_not_overwritten_before_they_are_read(
    data: Path, segmenters: list[dict[str, Any]], option: str, results: str
) -> None:
    gt = ("--gt", data / "truth.json")
    assert call("--images", data / "images", *gt, "--out", data / "a").exit_code == 0
    before = {path: path.read_bytes() for path in (data / "a").rglob("*") if path.is_file()}
    (data / "none.json").write_text("[]")
    other = () if option == "--predictions" else ("--predictions", data / "none.json")
    refused = call(*gt, option, data / results, *other, "--out", data / "a", "--overwrite")
    assert_one_error_line(refused, 2, f"{option} ", "choose another --out")
    assert before == {path: path.read_bytes() for path in (data / "a").rglob("*") if path.is_file()}


def test_resume_and_overwrite_exclude_each_other(data: Path, segmenters: list[dict[str, Any]]) -> None:
    arguments = ("--images", data / "images", "--gt", data / "truth.json", "--out", data / "a")
    assert_one_error_line(call(*arguments, "--resume", "--overwrite"), 2, "Give one of them")


def test_intervals_depend_on_the_seed_alone(data: Path, segmenters: list[dict[str, Any]]) -> None:
    assert call("--images", data / "images", "--gt", data / "truth.json", "--out", data / "a").exit_code == 0
    metrics = []
    for seed in ("0", "0", "1"):
        gt = ("--gt", data / "truth.json", "--predictions", data / "a", "--out", data / "b", "--overwrite")
        assert call(*gt, "--resamples", "7", "--seed", seed).exit_code == 0
        metrics.append(scores(data / "b")["metrics"]["AR100"])
    assert metrics[0] == metrics[1]
    assert metrics[0] != metrics[2]
    assert metrics[0]["value"] == metrics[2]["value"]


def test_interrupted_and_resumed(data: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    arguments = ("--images", data / "images", "--gt", data / "truth.json", "--out", data / "out")
    fail_with(monkeypatch, KeyboardInterrupt(), at=2)
    assert_one_error_line(call(*arguments), 130, "interrupted; 2 photos left: run again with --resume")
    assert not (data / "out" / "scores.json").exists()
    fail_with(monkeypatch, DeviceError("the GPU is on fire"), at=1)
    assert_one_error_line(call(*arguments, "--resume"), 4, "the GPU is on fire; 1 photos left")
    fake = FakeSegmenter()
    monkeypatch.setattr("esam_rt.segmenter.EntitySegmenter", lambda model, **options: fake)
    assert call(*arguments, "--resume").exit_code == 0
    assert fake.seen == 1
    assert len(scores(data / "out")["photos"]) == 4


def test_a_photo_that_cannot_be_read_is_left_out(data: Path, segmenters: list[dict[str, Any]]) -> None:
    (data / "images" / "set_0" / "2.jpg").write_bytes(b"")
    arguments = ("--images", data / "images", "--gt", data / "truth.json", "--out", data / "out")
    result = call(*arguments, "--json")
    assert result.exit_code == json.loads(result.stdout)["exit_code"] == 1
    assert "2.jpg is empty" in result.stderr
    assert len(scores(data / "out")["photos"]) == 3


def test_another_run_to_compare_with(data: Path, segmenters: list[dict[str, Any]]) -> None:
    gt = ("--gt", data / "truth.json")
    assert call("--images", data / "images", *gt, "--out", data / "a").exit_code == 0
    (data / "none.json").write_text("[]")
    result = call(*gt, "--predictions", data / "a", "--against", data / "none.json", "--out", data / "b")
    assert result.exit_code == 0, result.output
    assert "difference" in result.stdout
    against = scores(data / "b")["against"]
    assert against["metrics"]["AP"]["value"] == 0
    assert against["difference"]["AP"] == scores(data / "b")["metrics"]["AP"]
    # The folder of an evaluation stands for what was evaluated there, wherever it lies.
    result = call(*gt, "--predictions", data / "none.json", "--against", data / "b", "--out", data / "c")
    assert result.exit_code == 0, result.output
    assert "In 4 of 4 photos nothing was found" in result.stdout
    assert scores(data / "c")["against"]["difference"]["AP"]["value"] == -scores(data / "a")["metrics"]["AP"]["value"]
    assert "against" in (data / "c" / "report.html").read_text()


def pictures(report: str) -> list[NDArray[np.uint8]]:
    found = re.findall(r'src="data:image/jpeg;base64,([^"]+)"', report)
    return [np.asarray(Image.open(io.BytesIO(base64.b64decode(data)))) for data in found]


def test_report_shows_the_worst_photos_beside_their_ground_truth(data: Path, segmenters: list[dict[str, Any]]) -> None:
    out = data / "out"
    arguments = ("--images", data / "images", "--gt", data / "truth.json", "--out", out, "--overwrite")
    assert call(*arguments, "--worst", "2").exit_code == 0
    check_policy((out / "report.html").read_bytes())
    report = (out / "report.html").read_text()
    assert not re.findall(r'(?:src|href)="(?!data:)', report)  # one file
    assert re.findall(r"<h3>([^<]+)<", report) == ["set_0/2.jpg", "set_0/0.jpg"]  # no score: not ranked
    photo, true, found = pictures(report)[:3]
    assert photo.shape == (H, W, 3)
    assert abs(photo.astype(int) - 100).max() < 8
    inside = true[2:8].std(axis=(0, 1)).max(), true[12:].std(axis=(0, 1)).max()
    assert inside[0] < 30
    assert abs(true[12:].astype(int) - 100).max() < 40  # the lower half is no entity
    assert np.ptp(found[5, [5, 25]].astype(int), axis=0).max() > 40  # the halves differ in color
    rows = re.search(r"<tbody>\n(.*?)</tbody>", report, re.S)
    assert rows is not None
    assert rows[1].count("<tr>") == 4
    assert report.count("<polyline") == 3
    assert call(*arguments, "--worst", "0").exit_code == 0
    assert pictures((out / "report.html").read_text()) == []


def test_ground_truth_is_drawn_with_small_entities_on_top_and_crowds_apart(tmp_path: Path) -> None:
    small, crowd = np.zeros((2, H, W), bool)
    small[5:9, 5:9] = True
    crowd[12:, 10:] = True
    masks = ((small, 0), (np.ones((H, W), bool), 0), (crowd, 1))
    annotations = [{"image_id": 1, "segmentation": rle(mask), "iscrowd": c} for mask, c in masks]
    images = [{"id": 1, "file_name": "a", "width": W, "height": H}]
    (tmp_path / "t.json").write_text(json.dumps({"images": images, "annotations": annotations}))
    plan = prepare(EvalOptions(tmp_path / "t.json", tmp_path / "out", predictions=tmp_path))
    labels, ignored = _true_labels(plan, plan.photos[0], np.zeros((H, W), np.int64))
    assert np.array_equal(labels, np.where(small, 2, 1))
    assert ignored is not None
    assert np.array_equal(ignored, crowd)


def test_report_without_photos_at_hand(data: Path, segmenters: list[dict[str, Any]]) -> None:
    gt = ("--gt", data / "truth.json")
    assert call("--images", data / "images", *gt, "--out", data / "a").exit_code == 0
    assert call(*gt, "--predictions", data / "a", "--out", data / "b").exit_code == 0
    report = (data / "b" / "report.html").read_text()
    assert len(pictures(report)) == 2 * 3
    assert "<figcaption>photo</figcaption>" not in report


def test_names_are_escaped(data: Path, segmenters: list[dict[str, Any]]) -> None:
    truth = json.loads((data / "truth.json").read_text())
    truth["images"][0]["file_name"] = 'set_0/<b>"&{{rows}}.jpg'
    (data / "truth.json").write_text(json.dumps(truth))
    (data / "images" / "set_0" / "0.jpg").rename(data / "images" / "set_0" / '<b>"&{{rows}}.jpg')
    result = call("--images", data / "images", "--gt", data / "truth.json", "--out", data / "out")
    assert result.exit_code == 0, result.output
    report = (data / "out" / "report.html").read_text()
    assert "set_0/&lt;b&gt;&#34;&amp;{{rows}}.jpg" in report
    assert "<b>&" not in report.replace("<b>&ndash;", "")
    assert '/<b>"' not in report


def test_paths_are_escaped_wherever_the_report_shows_them(data: Path) -> None:
    name = "<script>{{ 7 * 7 }}&{% if.json"
    (data / name).write_text("[]")
    result = call("--gt", data / "truth.json", "--predictions", data / name, "--out", data / "out")
    assert result.exit_code == 0, result.output
    report = (data / "out" / "report.html").read_text()
    assert report.count("&lt;script&gt;{{ 7 * 7 }}&amp;{% if.json") == 2  # in the head, and in the record
    assert report.count("<script>") == 1  # the page's own


def test_plots_escape_names() -> None:
    name = '<b>"&{{ 1 }}'
    for svg in (
        plots.scatter([(0.5, 0.5, name)], (0.5, 0.5)),
        plots.curves([(name, np.ones(2), "c0")], np.array([0.0, 1.0])),
    ):
        assert str(svg).count("&lt;b&gt;&#34;&amp;{{ 1 }}") == 1
        assert name in "".join(ElementTree.fromstring(svg).itertext())


def test_public_names_are_imported_when_used() -> None:
    assert all(callable(getattr(evaluation, name)) for name in evaluation.__all__)
    assert not hasattr(evaluation, "RegionScores")


# --- BSDS500 ---


@pytest.fixture
def bsds(tmp_path: Path) -> Path:
    """Three photos; two annotators of each: one with the halves, one with the upper and lower halves."""
    root = tmp_path / "bsds"
    for folder in ("images", "segmentations"):
        (root / folder).mkdir(parents=True)
    rows = np.repeat(np.arange(H)[:, None] // (H // 2), W, axis=1)
    for name in ("8", "11", "20"):
        Image.fromarray(np.full((H, W, 3), 90, np.uint8)).save(root / "images" / f"{name}.jpg")
        for k, labels in enumerate((HALVES + 1, rows + 1)):
            Image.fromarray(labels.astype(np.uint16)).save(root / "segmentations" / f"{name}_{k}.png")
    return root


@pytest.mark.parametrize("prefix", ["", "bsds:"])
def test_bsds(bsds: Path, prefix: str, segmenters: list[dict[str, Any]]) -> None:
    result = call("--gt", f"{prefix}{bsds}", "--out", bsds / "out", "--limit", "2")
    assert result.exit_code == 0, result.output
    assert "covering" in result.stdout
    record = scores(bsds / "out")
    assert [p["name"] for p in record["photos"]] == ["8", "11"]
    values = {name: e["value"] for name, e in record["metrics"].items()}
    assert values["covering"] == pytest.approx((1 + 1 / 3) / 2)
    assert (values["covering_best"], values["VI"]) == (pytest.approx(1), pytest.approx(1))
    assert values["boundary_precision"] == pytest.approx(1)
    report = (bsds / "out" / "report.html").read_text()
    assert report.count('class="dot"') == 2 + 1  # and in the key
    assert len(pictures(report)) == 2 * 3
    # Label maps do without scores here.
    maps = bsds / "labels"
    maps.mkdir()
    for name in ("8", "11", "20"):
        Image.fromarray((HALVES + 1).astype(np.uint16)).save(maps / f"{name}.png")
    result = call("--gt", bsds, "--predictions", maps, "--against", bsds / "out", "--out", bsds / "b", "--limit", "2")
    assert result.exit_code == 0, result.output
    assert scores(bsds / "b")["against"]["difference"]["covering"] == {"value": 0, "low": 0, "high": 0}


def test_label_maps_cannot_have_ap(data: Path) -> None:
    Image.fromarray(HALVES.astype(np.uint16)).save(data / "0.png")
    result = call("--gt", data / "truth.json", "--predictions", data, "--partial", "--out", data / "out")
    assert_one_error_line(result, 1, "AP needs scores, but label maps have none")


# --- mistakes ---


def gone(data: Path) -> None:
    (data / "images" / "set_0" / "2.jpg").unlink()


def larger(data: Path) -> None:
    Image.fromarray(np.zeros((2 * H, 2 * W, 3), np.uint8)).save(data / "images" / "set_0" / "2.jpg")


@pytest.mark.parametrize(
    ("spoil", "words"),
    [
        (gone, ("images: has 3 of 4 photos", "set_0/2.jpg", "--partial")),
        (larger, ("2.jpg: is 60 x 40 pixels; expected 30 x 20, as in ", "truth.json", "images_lr/")),
    ],
)
def test_photos_that_do_not_fit(
    data: Path, segmenters: list[dict[str, Any]], spoil: Callable[[Path], None], words: tuple[str, ...]
) -> None:
    spoil(data)
    result = call("--images", data / "images", "--gt", data / "truth.json", "--out", data / "out")
    assert_one_error_line(result, 1, *words)
    assert segmenters == []
    assert not (data / "out").exists()


def test_partial_scores_the_photos_there_are(data: Path, segmenters: list[dict[str, Any]]) -> None:
    gone(data)
    result = call("--images", data / "images", "--gt", data / "truth.json", "--out", data / "out", "--partial")
    assert result.exit_code == 0, result.output
    assert [p["image_id"] for p in scores(data / "out")["photos"]] == [17, 19, 20]
    result = call("--gt", data / "truth.json", "--predictions", data / "out", "--out", data / "b")
    assert_one_error_line(result, 1, "out: has results for 3 of 4 photos", "set_0/2.jpg", "--partial")
    result = call("--gt", data / "truth.json", "--predictions", data / "out", "--out", data / "b", "--partial")
    assert result.exit_code == 0, result.output
    empty = data / "empty"
    empty.mkdir()
    Image.fromarray(np.zeros((H, W, 3), np.uint8)).save(empty / "other.jpg")
    result = call("--images", empty, "--gt", data / "truth.json", "--out", data / "c", "--partial")
    assert_one_error_line(result, 1, "empty: has 0 of 4 photos")


def test_a_photo_turned_by_exif_has_its_upright_size(data: Path, segmenters: list[dict[str, Any]]) -> None:
    exif = Image.Exif()
    exif[ExifTags.Base.Orientation] = 6
    Image.fromarray(np.zeros((W, H, 3), np.uint8)).save(data / "images" / "set_0" / "2.jpg", exif=exif)
    result = call("--images", data / "images", "--gt", data / "truth.json", "--out", data / "out")
    assert result.exit_code == 0, result.output


def test_options_that_do_not_go_together(data: Path) -> None:
    gt = ("--gt", data / "truth.json", "--out", data / "out")
    assert_one_error_line(call(*gt), 2, "No photos and no results. Give --images", "--predictions")
    result = call(*gt, "--predictions", data, "--resume")
    assert_one_error_line(result, 2, "--resume continues segmenting")
    assert_one_error_line(call("--gt", f"bsds:{data / 'x'}", "--out", data / "out"), 2, "is no folder")
    result = call("--gt", data / "nothing.json", "--images", data, "--out", data / "out")
    assert_one_error_line(result, 1, "nothing.json: cannot be read")
    result = call(*gt, "--predictions", data / "nothing.json")
    assert_one_error_line(result, 1, "nothing.json: does not exist")
    result = call(*gt, "--images", data / "images", "--set", "emr.tau")
    assert_one_error_line(result, 2, "--set emr.tau")


def test_folders_that_are_taken(data: Path, segmenters: list[dict[str, Any]]) -> None:
    out = data / "out"
    arguments = ("--images", data / "images", "--gt", data / "truth.json", "--out", out)
    assert call(*arguments).exit_code == 0
    assert_one_error_line(call(*arguments), 2, "out: holds an earlier evaluation; give --overwrite")
    (data / "none.json").write_text("[]")
    results = ("--gt", data / "truth.json", "--predictions", data / "none.json", "--out", out)
    assert_one_error_line(call(*results), 2, "out: holds an earlier evaluation")
    assert call(*results, "--overwrite").exit_code == 0
    assert not (out / "predictions" / "run.json").exists()  # it would pass for what was scored
    (out / "scores.json").write_text("{}")
    assert_one_error_line(call(*results, "--overwrite"), 2, "may be someone else's")
    (out / "scores.json").unlink()
    assert_one_error_line(call(*results, "--overwrite"), 2, "holds report.html and no scores.json of esam-rt")


def test_an_interrupted_run_is_not_scored_over(data: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    fail_with(monkeypatch, KeyboardInterrupt(), at=2)
    arguments = ("--gt", data / "truth.json", "--out", data / "out")
    assert call("--images", data / "images", *arguments).exit_code == 130
    (data / "none.json").write_text("[]")
    result = call(*arguments, "--predictions", data / "none.json")
    assert_one_error_line(result, 2, "out: holds a run of its own")
    result = call(*arguments, "--images", data / "images")
    assert_one_error_line(result, 2, "holds an earlier run; give --resume")


def test_overlapping_masks_are_mentioned(data: Path) -> None:
    whole = {"segmentation": rle(np.ones((H, W), bool)), "score": 0.5}
    (data / "r.json").write_text(json.dumps([{"image_id": 20, **whole}, {"image_id": 20, **whole}]))
    result = call("--gt", data / "truth.json", "--predictions", data / "r.json", "--out", data / "out")
    assert result.exit_code == 0, result.output
    assert "In 1 photos masks overlap" in result.stdout
    assert scores(data / "out")["photos_with_overlapping_masks"] == 1
