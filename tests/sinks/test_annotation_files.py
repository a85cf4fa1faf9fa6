"""Files for annotation tools and training: each is read back by the rules of its format."""

from __future__ import annotations

import csv
import gzip
import io
import json
import pickle
import warnings
from dataclasses import replace
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest
from numpy.typing import NDArray
from PIL import Image
from pycocotools import mask as coco_mask
from pycocotools.coco import COCO

from esam_rt.entity_map import EntityMap
from esam_rt.sinks import CocoPolygons, ConceptGraphs, FileSink, Labelme, MaskFiles, Panoptic, SamJson, YoloSegments
from esam_rt.sinks.sink_table import SINKS, make_sinks
from esam_rt.sources.frame import Frame

FRAMES = ["a.jpg", "sub/ü b.png", "empty.jpg"]


def scene(seed: int) -> EntityMap:
    """Overlapping discs with holes, in several pieces."""
    rng = np.random.default_rng(seed)
    y, x = np.mgrid[:60, :90]
    labels = np.zeros((60, 90), int)
    for i in range(1, 9):
        cy, cx, r = rng.integers(0, 60), rng.integers(0, 90), rng.integers(4, 16)
        distance = np.hypot(y - cy, x - cx)
        labels[(distance < r) & (distance > r * 0.3 * (i % 2))] = i
    return EntityMap.from_labels(labels, rng.random(8), np.zeros(8, int))


RESULTS = {
    name: scene(i) if name != "empty.jpg" else EntityMap.from_labels(np.zeros((60, 90), int), np.zeros(0), np.zeros(0))
    for i, name in enumerate(FRAMES)
}


def written(sink: FileSink, folder: Path) -> None:
    with sink:
        for name, entities in RESULTS.items():
            image = np.zeros((60, 90, 3), np.uint8)
            sink.write(Frame(image, name, path=folder / "photos" / name), entities)


def decoded(rle: dict[str, Any]) -> NDArray[np.bool_]:
    with warnings.catch_warnings(action="ignore"):  # of pycocotools with NumPy 2
        return coco_mask.decode(rle).astype(bool)


def iou(one: NDArray[Any], other: NDArray[Any]) -> float:
    union = (one | other).sum()
    return float((one & other).sum() / union) if union else 1.0


def test_coco_polygons_are_read_by_pycocotools(tmp_path: Path) -> None:
    written(CocoPolygons(tmp_path, tolerance_px=0), tmp_path)
    coco = COCO(str(tmp_path / "polygons.json"))
    assert [image["file_name"] for image in coco.dataset["images"]] == FRAMES
    for image in coco.dataset["images"]:
        entities = RESULTS[image["file_name"]]
        annotations = coco.loadAnns(coco.getAnnIds(image["id"]))
        assert len(annotations) == len(entities)
        for i, annotation in enumerate(annotations):
            assert isinstance(annotation["segmentation"], list)
            assert np.array_equal(decoded(coco.annToRLE(annotation)), entities.mask(i))
            assert annotation["area"] == entities.area[i]


def test_panoptic_ids_and_segments_agree(tmp_path: Path) -> None:
    written(Panoptic(tmp_path), tmp_path)
    data = json.loads((tmp_path / "panoptic.json").read_text())
    names = {image["id"]: image["file_name"] for image in data["images"]}
    assert list(names.values()) == FRAMES
    assert data["categories"][0]["isthing"] == 1
    for annotation in data["annotations"]:
        entities = RESULTS[names[annotation["image_id"]]]
        rgb = np.asarray(Image.open(tmp_path / "panoptic" / annotation["file_name"])).astype(int)
        ids = rgb @ [1, 256, 65536]
        assert np.array_equal(ids, entities.labels)
        assert [s["id"] for s in annotation["segments_info"]] == list(range(1, len(entities) + 1))
        for segment in annotation["segments_info"]:
            mask = ids == segment["id"]
            assert segment["area"] == mask.sum()
            x, y, w, h = segment["bbox"]
            assert mask[y : y + h, x : x + w].sum() == mask.sum()


def test_yolo_lines_filled_by_opencv_are_the_entities(tmp_path: Path) -> None:
    written(YoloSegments(tmp_path, tolerance_px=0), tmp_path)
    for name, stem in (("a.jpg", "a"), ("sub/ü b.png", "sub/ü b"), ("empty.jpg", "empty")):
        lines = (tmp_path / "yolo" / f"{stem}.txt").read_text().splitlines()
        entities = RESULTS[name]
        assert len(lines) == len(entities)
        for i, line in enumerate(lines):
            category, *numbers = line.split()
            ring = np.array(numbers, float).reshape(-1, 2)
            assert category == "0" and ring.min() >= 0 and ring.max() <= 1
            grown = np.zeros((600, 900), np.uint8)  # OpenCV draws the border too: ten times as large it is thin
            cv2.fillPoly(grown, [np.round(ring * [900, 600]).astype(np.int32)], 1)
            assert iou(grown[5::10, 5::10] > 0, entities.mask(i)) > 0.97


def test_labelme_files_lead_to_their_photo(tmp_path: Path) -> None:
    (tmp_path / "photos" / "sub").mkdir(parents=True)
    for name in FRAMES:
        (tmp_path / "photos" / name).touch()
    written(Labelme(tmp_path / "out", tolerance_px=0), tmp_path)
    for name, stem in (("a.jpg", "a"), ("sub/ü b.png", "sub/ü b"), ("empty.jpg", "empty")):
        file = tmp_path / "out" / "labelme" / f"{stem}.json"
        content = json.loads(file.read_text())
        assert (file.parent / content["imagePath"]).resolve() == (tmp_path / "photos" / name).resolve()
        assert (content["imageHeight"], content["imageWidth"]) == (60, 90)
        entities = RESULTS[name]
        by_entity: dict[int, list[list[float]]] = {}
        for shape in content["shapes"]:
            assert shape["shape_type"] == "polygon" and len(shape["points"]) >= 3
            by_entity.setdefault(shape["group_id"], []).append(np.ravel(shape["points"]).tolist())
        assert sorted(by_entity) == list(range(1, len(entities) + 1))
        for number, rings in by_entity.items():
            assert np.array_equal(
                decoded(coco_mask.merge(coco_mask.frPyObjects(rings, 60, 90))), entities.mask(number - 1)
            )


@pytest.mark.filterwarnings("ignore::ResourceWarning")  # of labelme
def test_labelme_s_own_reader_takes_them(tmp_path: Path) -> None:
    """It needs no window, but labelme brings Qt and more, 700 MB: it is no dependency of the tests."""
    pytest.importorskip("labelme", reason="labelme is not installed: pip install labelme")
    from labelme._label_file import read_label_file
    from labelme.utils import shape_to_mask

    (tmp_path / "photos" / "sub").mkdir(parents=True)
    for name in FRAMES:
        Image.new("RGB", (90, 60)).save(tmp_path / "photos" / name)
    written(Labelme(tmp_path / "out", tolerance_px=0), tmp_path)
    for name, entities in RESULTS.items():
        stem = name.rpartition(".")[0]
        read = read_label_file(str(tmp_path / "out" / "labelme" / f"{stem}.json"))
        assert Image.open(io.BytesIO(read.image_data)).size == (90, 60)
        found = np.zeros((len(entities), 60, 90), bool)
        for shape in read.shapes:
            found[shape["group_id"] - 1] |= shape_to_mask((60, 90), shape["points"], shape["shape_type"])
        for i in range(len(entities)):
            assert found[i][entities.mask(i)].all() and iou(found[i], entities.mask(i)) > 0.5  # it draws outlines too


def test_mask_files_and_their_table(tmp_path: Path) -> None:
    written(MaskFiles(tmp_path), tmp_path)
    for name, stem in (("a.jpg", "a"), ("sub/ü b.png", "sub/ü b"), ("empty.jpg", "empty")):
        folder, entities = tmp_path / "masks" / stem, RESULTS[name]
        with (folder / "metadata.csv").open() as file:
            rows = list(csv.DictReader(file))
        assert len(rows) == len(entities) == len(list(folder.glob("*.png")))
        for i, row in enumerate(rows):
            mask = np.asarray(Image.open(folder / f"{row['id']}.png").convert("L"))
            assert set(np.unique(mask)) <= {0, 255}
            assert np.array_equal(mask > 0, entities.mask(i))
            assert int(row["area"]) == (mask > 0).sum()
            assert float(row["predicted_iou"]) == pytest.approx(entities.score[i], abs=1e-6)


def test_files_of_sam_have_the_keys_of_sa_1b(tmp_path: Path) -> None:
    written(SamJson(tmp_path), tmp_path)
    content = json.loads((tmp_path / "sam" / "sub" / "ü b.json").read_text())
    entities = RESULTS["sub/ü b.png"]
    assert content["image"] == {"file_name": "sub/ü b.png", "width": 90, "height": 60}
    assert len(content["annotations"]) == len(entities)
    for i, annotation in enumerate(content["annotations"]):
        assert np.array_equal(decoded(annotation["segmentation"]), entities.mask(i))
        assert annotation["predicted_iou"] == pytest.approx(entities.score[i], abs=1e-6)


class OldNumpy(pickle.Unpickler):
    """Knows nothing but names that NumPy had before version 2, as ConceptGraphs has."""

    def find_class(self, module: str, name: str) -> Any:
        assert (module, name) in {("numpy", "ndarray"), ("builtins", "bytearray")}
        return super().find_class(module, name)


@pytest.mark.parametrize("channels", [0, 7])
def test_detections_of_concept_graphs(tmp_path: Path, channels: int) -> None:
    features = np.random.default_rng(0).normal(size=(8, channels)).astype(np.float32)
    image = np.random.default_rng(1).integers(0, 256, (60, 90, 3)).astype(np.uint8)
    with ConceptGraphs(tmp_path) as sink:
        for name, entities in RESULTS.items():
            given = features[: len(entities)] if channels else None
            sink.write(Frame(image, name), replace(entities, features=given))
    for name, entities in RESULTS.items():
        path = (tmp_path / "gsa_detections_esam" / name).with_suffix(".pkl.gz")  # as ConceptGraphs finds it
        with gzip.open(path) as file:
            found = OldNumpy(file).load()
        n = len(entities)
        assert np.array_equal(found["mask"], np.array(list(entities.masks())).reshape(n, 60, 90))
        assert found["mask"].dtype == bool and found["xyxy"].shape == (n, 4)
        assert np.array_equal(found["xyxy"], entities.box_xyxy) and found["xyxy"].flags.writeable
        assert np.array_equal(found["confidence"], entities.score)
        assert [found["classes"][i] for i in found["class_id"]] == ["entity"] * n
        for crop, (x0, y0, x1, y1) in zip(found["image_crops"], entities.box_xyxy, strict=True):
            assert np.array_equal(crop, image[y0:y1, x0:x1])
        assert found["image_feats"].shape == (n, channels or 1) and len(found["text_feats"]) == n
        np.testing.assert_allclose(np.linalg.norm(found["image_feats"], axis=1), 1, rtol=1e-6)
        if channels:
            assert (np.einsum("nc,nc->n", found["image_feats"], features[:n]) > 0).all()
    assert json.loads((tmp_path / "gsa_classes_esam.json").read_text()) == ["entity"]


def test_every_sink_of_the_table_names_its_outputs(tmp_path: Path) -> None:
    for name in SINKS:
        (sink,) = make_sinks([name])
        assert isinstance(sink, FileSink) and len(sink.outputs) > 0
    outputs = [output for sink in make_sinks(SINKS) for output in getattr(sink, "outputs", ())]
    assert len(outputs) == len(set(outputs))
