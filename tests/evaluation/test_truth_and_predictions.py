"""Ground truth and predictions on disk: every form that is read, and what is said of what cannot be."""

from __future__ import annotations

import json
import random
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray
from PIL import Image
from pycocotools import mask as coco_mask
from scipy.io import savemat

from esam_rt.errors import InputError
from esam_rt.evaluation import read_truth
from esam_rt.evaluation.photo_names import Names
from esam_rt.evaluation.predictions import label_map, read_predictions
from esam_rt.evaluation.truth.bsds_truth import RegionTruth
from esam_rt.evaluation.truth.coco_masks import read_mask
from esam_rt.evaluation.truth.coco_truth import MaskTruth
from esam_rt.evaluation.truth.true_photo import TruePhoto
from esam_rt.rle import dense_mask, run_lengths

H, W = 12, 16
MASK = np.zeros((H, W), bool)
MASK[2:7, 3:9] = True
OTHER = np.zeros((H, W), bool)
OTHER[8:11, 1:15] = True


def rle(mask: NDArray[np.bool_]) -> dict[str, Any]:
    encoded = coco_mask.encode(np.asfortranarray(mask.view(np.uint8)))
    return {"size": list(mask.shape), "counts": encoded["counts"].decode("ascii")}


def saved(path: Path, value: object) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(value))
    return path


def truth_json(names: tuple[str, ...] = ("a.jpg", "b.jpg"), **changes: Any) -> dict[str, Any]:
    images = [{"id": 10 + i, "file_name": n, "width": W, "height": H} for i, n in enumerate(names)]
    annotation = {"id": 0, "image_id": 10, "category_id": 0, "segmentation": rle(MASK), "bbox": [3, 2, 6, 5]}
    return {"images": images, "annotations": [annotation | changes], "categories": []}


PHOTOS = [TruePhoto(10, "a.jpg", W, H), TruePhoto(11, "b.jpg", W, H)]


# --- masks ---


@settings(deadline=None, max_examples=200)
@given(st.integers(1, 40), st.integers(1, 40), st.floats(0, 1), st.integers(0, 2**32 - 1))
def test_runs_are_those_of_pycocotools(height: int, width: int, density: float, seed: int) -> None:
    mask = np.random.default_rng(seed).random((height, width)) < density
    runs = run_lengths(rle(mask)["counts"].encode())
    assert runs.sum() == height * width
    assert runs[1::2].sum() == mask.sum()
    assert np.array_equal(dense_mask(rle(mask)), mask)
    read = read_mask(rle(mask), height, width, "")
    assert coco_mask.area(read) == mask.sum()
    assert np.array_equal(dense_mask(read), mask)


def compressed(*runs: int) -> str:
    """COCO's string of any numbers, as masks have them or not."""
    text = ""
    for i, run in enumerate(runs):
        rest, more = run - (runs[i - 2] if i > 2 else 0), True
        while more:
            digit, rest = rest & 31, rest >> 5
            more = rest != (-1 if digit & 16 else 0)
            text += chr(48 + digit + 32 * more)
    return text


def test_runs_may_not_be_negative() -> None:
    runs = (3, 40, 5, H * W - 48)
    assert run_lengths(compressed(*runs).encode()).tolist() == [*runs]
    assert compressed(*run_lengths(rle(MASK)["counts"].encode()).tolist()) == rle(MASK)["counts"]
    for wrong in ((3, -40, 5, H * W + 32), (-1, H * W + 1), (H * W, 1, -1)):
        assert sum(wrong) == H * W
        assert run_lengths(compressed(*wrong).encode()).tolist() == [*wrong]
        with pytest.raises(InputError, match="string does not fill"):
            read_mask({"size": [H, W], "counts": compressed(*wrong)}, H, W, "here")


def test_long_runs() -> None:
    mask = np.zeros((3000, 4000), bool)
    mask[1000:2999, 2000:] = True
    assert np.array_equal(dense_mask(rle(mask)), mask)


def test_uncompressed_runs_and_polygons() -> None:
    flat = MASK.T.ravel()
    edges = np.flatnonzero(np.diff(np.concatenate([[False], flat, [False]]).astype(np.int8)))
    runs = np.diff(np.concatenate([[0], edges, [flat.size]])).tolist()
    assert np.array_equal(dense_mask(read_mask({"size": [H, W], "counts": runs}, H, W, "")), MASK)
    square = [3.0, 2.0, 9.0, 2.0, 9.0, 7.0, 3.0, 7.0]
    assert np.array_equal(dense_mask(read_mask([square], H, W, "")), MASK)
    two = read_mask([square, [1, 8, 15, 8, 15, 11, 1, 11]], H, W, "")
    assert np.array_equal(dense_mask(two), MASK | OTHER)


@settings(deadline=None, max_examples=300)
@given(st.binary(min_size=1, max_size=12) | st.text(alphabet=[chr(c) for c in range(48, 112)], max_size=12))
def test_any_string_is_read_as_a_whole_mask_or_refused(counts: bytes | str) -> None:
    """pycocotools writes past the mask, or hangs, for most of these."""
    try:
        read = read_mask({"size": [H, W], "counts": counts}, H, W, "here")
    except InputError as e:
        assert str(e).startswith("here: ")
    else:
        assert dense_mask(read).shape == (H, W)


@pytest.mark.parametrize(
    ("segmentation", "words"),
    [
        (None, "None; expected RLE"),
        ([], "[]; expected RLE"),
        ({}, "{}; expected RLE"),
        ({"size": [H, W]}, "expected RLE with size and counts"),
        ({"size": [H], "counts": "1"}, "expected RLE with size and counts"),
        (
            {"size": [W, H], "counts": rle(MASK.T)["counts"]},
            "the mask is 12 x 16 pixels; expected 16 x 12, as the photo of the ground truth",
        ),
        ({"size": [H, W], "counts": [H * W + 1]}, "runs of the RLE do not fill 16 x 12"),
        ({"size": [H, W], "counts": [5, -5, H * W]}, "runs of the RLE do not fill 16 x 12"),
        ({"size": [H, W], "counts": "zzzz"}, "string does not fill 16 x 12"),
        ({"size": [H, W], "counts": ""}, "string does not fill 16 x 12"),
        ({"size": [H, W], "counts": "é"}, "string does not fill 16 x 12"),
        ({"size": [H, W], "counts": "o" * 40}, "string does not fill 16 x 12"),
        ([[1, 2, 3, 4]], "expected x, y, x, y"),
        ([[1, 2, 3, 4, 5, 6, 7]], "expected x, y, x, y"),
        ([[1, 2, 3, 4, 5, "6"]], "expected x, y, x, y"),
        ([[1, 2, 3, 4, 5, float("nan")]], "expected x, y, x, y"),
        ([[0, 0, 1e9, 0, 1e9, 1]], "reaches far outside 16 x 12"),
        ([1, 2, 3, 4, 5, 6], "a polygon is 1"),
    ],
)
def test_what_is_no_mask(segmentation: object, words: str) -> None:
    with pytest.raises(InputError, match=r"^here: ") as e:
        read_mask(segmentation, H, W, "here")
    assert words in str(e.value)


def test_label_map_has_the_best_score_on_top() -> None:
    low, high = {"segmentation": rle(MASK), "score": 0.2}, {"segmentation": rle(MASK | OTHER), "score": 0.7}
    assert np.array_equal(label_map([low, high], H, W), 2 * (MASK | OTHER))
    low["score"] = 0.9
    labels = label_map([low, high], H, W)
    assert np.array_equal(labels, np.where(MASK, 1, 2 * OTHER))
    assert not label_map([], H, W).any()


# --- names ---


def test_names_with_more_or_fewer_folders_and_another_suffix() -> None:
    names = Names(["entity_01/a.jpg", "entity_02/a.jpg", "b.png", "c.jpg", "c.png", "x/d.tar.jpg"], "the folder")
    assert names.find("entity_01/a.jpg") == "entity_01/a.jpg"
    assert names.find("images/entity_02/a.png") == "entity_02/a.jpg"
    assert names.find("deep/b") == "b.png"
    assert names.find("c.png") == "c.png"
    assert names.find("d.tar") == "x/d.tar.jpg"
    assert names.find("entity_03/a.jpg") is None
    assert names.find("nowhere.jpg") is None
    assert Names(["a.png", "x/a.png"], "").find("a.jpg") == "a.png"
    for ambiguous in ("a.jpg", "c.bmp"):
        with pytest.raises(InputError, match=rf"^{ambiguous}: the folder has .*, .*; expected one"):
            names.find(ambiguous)


def test_no_photo_is_matched_twice() -> None:
    names = Names(["1/images/001.jpg", "2/images/001.jpg", "x.jpg"], "the folder")
    wanted = ["1/images/001.png", "2/images/001.png", "y.jpg"]
    assert names.matches(wanted) == {wanted[0]: "1/images/001.jpg", wanted[1]: "2/images/001.jpg"}
    with pytest.raises(InputError, match=r"b/x\.jpg: x\.jpg of the folder could be this photo or a/x\.jpg"):
        names.matches(["a/x.jpg", "b/x.jpg"])


# --- ground truth ---


def test_coco_instances(tmp_path: Path) -> None:
    data = truth_json(names=("b.jpg", "a.jpg"))
    data["images"].reverse()
    data["annotations"] += [
        {"id": 3, "image_id": 10, "category_id": 7, "segmentation": rle(OTHER), "iscrowd": 1, "area": 41.5}
    ]
    truth = read_truth(saved(tmp_path / "t.json", data))
    assert isinstance(truth, MaskTruth)
    assert [(p.image_id, p.name, p.width, p.height) for p in truth.photos] == [(10, "b.jpg", W, H), (11, "a.jpg", W, H)]
    one, two = truth.entities(truth.photos[0])
    assert (one["area"], one["iscrowd"]) == (MASK.sum(), 0)  # as EntitySeg: no iscrowd, and here no area
    assert (two["area"], two["iscrowd"]) == (41.5, 1)
    assert np.array_equal(dense_mask(one["segmentation"]), MASK)
    assert truth.entities(truth.photos[1]) == []


def change(**changes: Any) -> Callable[[dict[str, Any]], object]:
    return lambda data: data["annotations"][0].update(changes)


@pytest.mark.parametrize(
    ("spoil", "words"),
    [
        (lambda d: d.pop("images"), "an object with annotations, categories; expected COCO's ground truth"),
        (lambda d: d["images"][0].pop("width"), "expected id, file_name, width and height"),
        (lambda d: d["images"][0].update(id="10"), "expected id, file_name, width and height"),
        (lambda d: d["images"][0].update(height=0), "expected id, file_name, width and height"),
        (lambda d: d["images"][1].update(id=10), "two images have the id 10"),
        (change(image_id=99), "annotation 1 has image_id 99; expected one of the file's 2 images"),
        (lambda d: d["annotations"].append("x"), "annotation 2 has image_id None"),
        (lambda d: d.update(annotations=[5]), "annotation 1 has image_id None"),
        (change(image_id=[1]), "annotation 1 has image_id [1]"),
        (change(segmentation=rle(np.ones((3, 5), bool))), "annotation 0 of a.jpg: the mask is 5 x 3 pixels"),
        (change(iscrowd=2), "iscrowd is 2; expected 0 or 1"),
    ],
)
def test_what_is_no_ground_truth(tmp_path: Path, spoil: Callable[[dict[str, Any]], object], words: str) -> None:
    data = truth_json()
    spoil(data)
    path = saved(tmp_path / "t.json", data)
    with pytest.raises(InputError) as e:
        truth = read_truth(path)
        assert isinstance(truth, MaskTruth)
        truth.entities(truth.photos[0])
    assert str(path) in str(e.value)
    assert words in str(e.value)


@pytest.mark.parametrize(
    ("content", "words"),
    [
        (None, "cannot be read (No such file"),
        (b"", "not a JSON file"),
        (b"\xff\xd8\xff", "not a JSON file"),
        (b"[" * 100_000, "not a JSON file"),
        (b"[1, 2]", "holds a list of 2; expected COCO's ground truth"),
        (b"{}", "holds an empty object"),
        (b"3", "holds 3"),
    ],
)
def test_files_that_are_no_ground_truth(tmp_path: Path, content: bytes | None, words: str) -> None:
    path = tmp_path / "t.json"
    if content is not None:
        path.write_bytes(content)
    with pytest.raises(InputError) as e:
        read_truth(path)
    assert str(e.value).startswith(f"{path}: ")
    assert words in str(e.value)


def panoptic(folder: Path, png: Path) -> tuple[Path, dict[str, Any], NDArray[np.int64]]:
    """JSON and PNG of two segments and a crowd; ids of more than 8 and 16 bits."""
    ids = np.zeros((H, W), np.int64)
    ids[MASK], ids[OTHER], ids[0] = 7, 300, 70_000
    rgb = np.stack([ids & 255, ids >> 8 & 255, ids >> 16], axis=2).astype(np.uint8)
    png.mkdir(parents=True)
    Image.fromarray(rgb).save(png / "a.png")
    segments = [{"id": i, "category_id": 1, "iscrowd": int(i == 300), "area": 5} for i in (300, 7, 70_000)]
    images = [{"id": 10, "file_name": "a.jpg", "width": W, "height": H}]
    data = {"images": images, "annotations": [{"image_id": 10, "file_name": "a.png", "segments_info": segments}]}
    return saved(folder / "panoptic.json", data), data, ids


def test_coco_panoptic(tmp_path: Path) -> None:
    path, _, ids = panoptic(tmp_path, tmp_path / "panoptic")
    (tmp_path / "panoptic").rename(tmp_path / "elsewhere")
    with pytest.raises(InputError, match=r"panoptic: no such folder.*--pngs"):
        read_truth(path)
    (tmp_path / "elsewhere").rename(tmp_path / "panoptic")
    truth = read_truth(path)
    assert isinstance(truth, MaskTruth)
    assert truth.form == "coco-panoptic"
    entities = truth.entities(truth.photos[0])
    assert [(e["iscrowd"], e["area"]) for e in entities] == [(1, 5), (0, 5), (0, 5)]
    for number, e in zip((300, 7, 70_000), entities, strict=True):
        assert np.array_equal(dense_mask(e["segmentation"]), ids == number)


@pytest.mark.parametrize(
    ("spoil", "words"),
    [
        (lambda a: a["segments_info"].pop(), "segment 70000 is not listed in"),
        (lambda a: a["segments_info"].append({"id": 4}), "segment 4 is listed in"),
        (lambda a: a.update(file_name="b.png"), "b.png: cannot be read as PNG"),
        (lambda a: a.update(segments_info=3), "annotation 1: segments_info is 3"),
        (lambda a: a["segments_info"].append({}), "annotation 1: segments_info is"),
    ],
)
def test_panoptic_files_that_do_not_agree(
    tmp_path: Path, spoil: Callable[[dict[str, Any]], object], words: str
) -> None:
    path, data, _ = panoptic(tmp_path, tmp_path / "pngs")
    spoil(data["annotations"][0])
    saved(path, data)
    with pytest.raises(InputError) as e:
        truth = read_truth(path, tmp_path / "pngs")
        assert isinstance(truth, MaskTruth)
        truth.entities(truth.photos[0])
    assert words in str(e.value)


def test_a_panoptic_png_of_another_size(tmp_path: Path) -> None:
    path, _, ids = panoptic(tmp_path, tmp_path / "panoptic")
    Image.fromarray(ids.astype(np.uint8)).save(tmp_path / "panoptic" / "a.png")
    truth = read_truth(path)
    assert isinstance(truth, MaskTruth)
    with pytest.raises(InputError, match=r"a\.png: is 16 x 12; expected 16 x 12 x 3"):
        truth.entities(truth.photos[0])


def bsds(folder: Path, name: str, *maps: NDArray[np.int64]) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    for k, labels in enumerate(maps):
        Image.fromarray(labels.astype(np.uint16)).save(folder / f"{name}_{k}.png")


def test_bsds_folders(tmp_path: Path) -> None:
    one, two = np.where(MASK, 1, 900), np.where(OTHER, 2, 1)
    bsds(tmp_path / "segmentations", "100", one, two)
    bsds(tmp_path / "segmentations", "9", two.T)
    for folder in (tmp_path, tmp_path / "segmentations"):
        truth = read_truth(folder)
        assert isinstance(truth, RegionTruth)
        assert [(p.image_id, p.name, p.width, p.height) for p in truth.photos] == [(9, "9", H, W), (100, "100", W, H)]
        assert [m.tolist() for m in truth.annotated(truth.photos[1])] == [one.tolist(), two.tolist()]
    bsds(tmp_path / "segmentations", "x_y", one)
    truth = read_truth(tmp_path)
    assert [(p.image_id, p.name) for p in truth.photos] == [(1, "100"), (2, "9"), (3, "x_y")]


def test_bsds_as_its_authors_publish_it(tmp_path: Path) -> None:
    one, two = np.where(MASK, 1, 900), np.where(OTHER, 2, 1)
    cells = np.empty((1, 2), object)
    for k, labels in enumerate((one, two)):
        cells[0, k] = {"Segmentation": labels.astype(np.uint16), "Boundaries": np.zeros((H, W), np.uint8)}
    savemat(tmp_path / "5.mat", {"groundTruth": cells})
    savemat(tmp_path / "6.mat", {"groundTruth": cells[:, :1]})
    truth = read_truth(tmp_path)
    assert isinstance(truth, RegionTruth)
    assert [m.tolist() for m in truth.annotated(truth.photos[0])] == [one.tolist(), two.tolist()]
    assert len(truth.annotated(truth.photos[1])) == 1
    for spoilt in (b"", b"MATLAB 5.0 MAT-file" + bytes(200)):
        (tmp_path / "6.mat").write_bytes(spoilt)
        with pytest.raises(InputError, match=r"6\.mat: cannot be read .*expected BSDS500"):
            read_truth(tmp_path)
    savemat(tmp_path / "6.mat", {"other": 1})
    with pytest.raises(InputError, match=r"6\.mat: cannot be read .*expected BSDS500"):
        read_truth(tmp_path)


def test_what_is_no_bsds(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="holds no ground truth; expected label maps"):
        read_truth(tmp_path)
    bsds(tmp_path, "1", np.where(MASK, 1, 2), np.where(MASK, 1, 2)[:5])
    truth = read_truth(tmp_path)
    assert isinstance(truth, RegionTruth)
    with pytest.raises(InputError, match=r"maps of one photo are 16 x 5 and 16 x 12"):
        truth.annotated(truth.photos[0])
    Image.fromarray(np.zeros((3, 4, 3), np.uint8)).save(tmp_path / "1_0.png")
    with pytest.raises(InputError, match=r"1_0\.png: has colors"):
        read_truth(tmp_path)
    (tmp_path / "1_0.png").write_bytes(b"\x89PNG\r\n\x1a\n")
    with pytest.raises(InputError, match=r"1_0\.png: cannot be read as PNG"):
        read_truth(tmp_path)


# --- predictions ---


def result(**changes: Any) -> dict[str, Any]:
    return {"image_id": 10, "category_id": 1, "segmentation": rle(MASK), "score": 0.5} | changes


def test_coco_results_are_of_all_photos(tmp_path: Path) -> None:
    found = read_predictions(saved(tmp_path / "r.json", [result(), result(score=1)]), PHOTOS)
    assert list(found.photos) == PHOTOS
    assert [d["score"] for d in found.detections(PHOTOS[0])] == [0.5, 1]
    assert found.detections(PHOTOS[1]) == []
    assert np.array_equal(found.labels(PHOTOS[0]), 2 * MASK)


def test_entities_json_is_matched_by_name(tmp_path: Path) -> None:
    data = {"images": [{"id": 1, "file_name": "sub/b.png"}, {"id": 2, "file_name": "z.png"}]}
    data["annotations"] = [result(image_id=1), result(image_id=2, segmentation="not looked at")]
    for path in (tmp_path / "r.json", tmp_path / "entities.json"):
        found = read_predictions(saved(path, data), PHOTOS)
        assert list(found.photos) == PHOTOS[1:]
        assert len(found.detections(PHOTOS[1])) == 1
    assert read_predictions(tmp_path, PHOTOS).photos == found.photos


def test_folder_of_a_run(tmp_path: Path) -> None:
    record = {"name": "a.jpg", "width": W, "height": H, "entities": [result()], "times_s": {}, "stem": "a"}
    for folder in (tmp_path / "run", tmp_path / "eval" / "predictions"):
        saved(folder / "run.json", {"program": "esam-rt", "model": {"name": "m"}})
        again = json.dumps({**record, "entities": []})  # two machines did the photo; the first line counts, as in a run
        (folder / "photos.jsonl").write_text(f"{json.dumps(record)}\n{again}\n{again[:20]}")
    for place in (tmp_path / "run", tmp_path / "eval"):
        found = read_predictions(place, PHOTOS)
        assert list(found.photos) == PHOTOS[:1]
        assert found.run["model"] == {"name": "m"}
        assert np.array_equal(found.labels(PHOTOS[0]), MASK)
    (tmp_path / "run" / "run.json").write_text("{")
    with pytest.raises(InputError, match=r"run\.json: cannot be read"):
        read_predictions(tmp_path / "run", PHOTOS)


def test_folder_of_label_maps(tmp_path: Path) -> None:
    labels = np.where(MASK, 5, np.where(OTHER, 300, 0))
    Image.fromarray(labels.astype(np.uint16)).save(tmp_path / "b.png")
    found = read_predictions(tmp_path, PHOTOS)
    assert not found.scored
    assert list(found.photos) == PHOTOS[1:]
    assert np.array_equal(found.labels(PHOTOS[1]), np.where(MASK, 1, 2 * OTHER))
    Image.fromarray(labels[:5].astype(np.uint16)).save(tmp_path / "b.png")
    with pytest.raises(InputError, match=r"b\.png: is 16 x 5 pixels; expected 16 x 12, as in the ground truth"):
        read_predictions(tmp_path, PHOTOS)


@pytest.mark.parametrize(
    ("data", "words"),
    [
        (
            [result(), result(image_id=12)],
            "result 2 has image_id 12; expected an id of the ground truth, such as 10, 11",
        ),
        ([3], "result 1 has image_id None"),
        ([result(image_id=[10])], "result 1 has image_id [10]"),
        ({"images": [{"id": [1], "file_name": "a.jpg"}], "annotations": []}, "expected id and file_name"),
        ({"images": [], "annotations": [result(image_id={})]}, "annotation 1 has image_id {}"),
        ([result(score="high")], "result 1: score is 'high'; expected a number"),
        ([result(score=float("nan"))], "result 1: score is nan"),
        (
            [{"image_id": 10, "score": 1, "bbox": [0, 0, 1, 1]}],
            "expected a segmentation. Give masks: boxes are not enough",
        ),
        ([result(segmentation=rle(MASK.T))], "result 1: the mask is 12 x 16 pixels"),
        ({"a": 1}, "holds an object with a; expected COCO results"),
        (
            {"images": [], "annotations": [result()]},
            "annotation 1 has image_id 10; expected one of the file's 0 images",
        ),
        ({"images": [3], "annotations": []}, "an image is 3; expected id and file_name"),
        (
            {"images": [{"id": 1, "file_name": "c.jpg"}], "annotations": []},
            "has results for c.jpg; expected photos of the ground truth, such as a.jpg, b.jpg",
        ),
        (
            {"images": [], "annotations": []},
            "has results for no photo; expected photos of the ground truth, such as a.jpg",
        ),
    ],
)
def test_what_is_no_prediction(tmp_path: Path, data: object, words: str) -> None:
    path = saved(tmp_path / "r.json", data)
    with pytest.raises(InputError) as e:
        read_predictions(path, PHOTOS)
    assert str(e.value).startswith(f"{path}: ")
    assert words in str(e.value)


def test_folders_without_results(tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"holds no results; expected COCO results, entities\.json"):
        read_predictions(tmp_path, PHOTOS)
    Image.fromarray(np.zeros((H, W), np.uint8)).save(tmp_path / "c.png")
    with pytest.raises(
        InputError, match=r"has results for c\.png; expected photos of the ground truth, such as a\.jpg, b\.jpg"
    ):
        read_predictions(tmp_path, PHOTOS)


def test_order_of_annotations_does_not_matter(tmp_path: Path) -> None:
    results = [result(image_id=10 + i % 2, score=i / 10) for i in range(8)]
    random.Random(0).shuffle(results)
    found = read_predictions(saved(tmp_path / "r.json", results), PHOTOS)
    assert sorted(d["score"] for d in found.detections(PHOTOS[1])) == [0.1, 0.3, 0.5, 0.7]


# --- files of SAM ---


def sam_mask(mask: NDArray[np.bool_], score: float) -> dict[str, Any]:
    """A mask as SAM's automatic mask generation writes it."""
    area, box = int(mask.sum()), [3, 2, 6, 5]
    return {"segmentation": rle(mask), "area": area, "bbox": box, "predicted_iou": score, "stability_score": 0.97}


def test_files_of_sam_are_read_by_their_names(tmp_path: Path) -> None:
    masks = [sam_mask(MASK, 0.9), sam_mask(OTHER, 0.8)]
    saved(tmp_path / "amg" / "a.json", masks)
    saved(tmp_path / "amg" / "b.json", [])
    image = {"image_id": 7, "file_name": "b.jpg", "width": W, "height": H}
    sa_1b = saved(tmp_path / "sa_223750.json", {"image": image, "annotations": masks[1:]})

    found = read_predictions(tmp_path / "amg", PHOTOS)
    assert [photo.name for photo in found.photos] == ["a.jpg", "b.jpg"]
    assert [d["score"] for d in found.detections(PHOTOS[0])] == [0.9, 0.8]
    assert np.array_equal(found.labels(PHOTOS[0]), MASK * 1 + OTHER * 2)
    assert found.detections(PHOTOS[1]) == []

    (one,) = read_predictions(sa_1b, PHOTOS).detections(PHOTOS[1])
    assert np.array_equal(dense_mask(one["segmentation"]), OTHER) and one["score"] == 0.8
    (single,) = read_predictions(saved(tmp_path / "b.json", masks[:1]), PHOTOS).detections(PHOTOS[1])
    assert np.array_equal(dense_mask(single["segmentation"]), MASK)


@pytest.mark.parametrize(
    ("content", "words"),
    [
        ({"image": {}, "annotations": [{"area": 3}]}, "a.json|score is None"),
        ([{"predicted_iou": 0.5}], "expected a segmentation"),
        ({"shapes": []}, "expected a JSON file of SAM"),
        ([3], "expected a JSON file of SAM"),
    ],
)
def test_files_that_are_not_of_sam(tmp_path: Path, content: object, words: str) -> None:
    saved(tmp_path / "amg" / "a.json", content)
    with pytest.raises(InputError, match=words):
        read_predictions(tmp_path / "amg", PHOTOS)
