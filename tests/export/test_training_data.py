"""Training samples: nested targets around their points, whatever the view is made of."""

from __future__ import annotations

import json
from pathlib import Path

import cv2
import numpy as np
import pytest
from numpy.typing import NDArray
from pycocotools import mask as coco_mask

from esam_rt.export.configs import MASK_STRIDE
from esam_rt.export.train_tiny import training_data as module
from esam_rt.export.train_tiny.annotated_photos import (
    OBJECT,
    PART,
    SUBPART,
    Photo,
    annotated,
    load_photos,
    nested,
    whole,
)
from esam_rt.export.train_tiny.synthetic import scene
from esam_rt.export.train_tiny.training_data import INFERENCE_MIX, Mix, Sample, Samples
from esam_rt.export.train_tiny.views import draw_region, mosaic, paste, window

# pycocotools 2.0.11 warns with NumPy 2 when it decodes.
pytestmark = pytest.mark.filterwarnings("ignore:__array__ implementation:DeprecationWarning")


def rle(mask: NDArray[np.bool_]) -> dict[str, object]:
    encoded = coco_mask.encode(np.asfortranarray(mask, np.uint8))
    return {"size": encoded["size"], "counts": encoded["counts"].decode()}


def coco(folder: Path, image: NDArray[np.uint8], annotations: list[dict[str, object]]) -> None:
    (folder / "images").mkdir(parents=True)
    cv2.imwrite(str(folder / "images/1.jpg"), image)
    h, w = image.shape[:2]
    entry = {"id": 1, "file_name": "1.jpg", "height": h, "width": w}
    (folder / "entities.json").write_text(json.dumps({"images": [entry], "annotations": annotations}))


@pytest.fixture(scope="module")
def root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("data")
    rng = np.random.default_rng(0)
    image = cv2.GaussianBlur(rng.integers(0, 256, (120, 160, 3)).astype(np.uint8), (0, 0), 5)
    coarse = np.ones((120, 160), np.uint16)
    coarse[:, 80:] = 2
    fine = coarse.copy()
    fine[60:, 80:] = 3
    for folder in ("bsds500/train/images", "bsds500/train/segmentations", "ecssd/images", "ecssd/masks"):
        (root / folder).mkdir(parents=True)
    cv2.imwrite(str(root / "bsds500/train/images/7.jpg"), image)
    for k, labels in enumerate((coarse, fine)):
        cv2.imwrite(str(root / f"bsds500/train/segmentations/7_{k}.png"), labels)
    cv2.imwrite(str(root / "ecssd/images/1.jpg"), image)
    cv2.imwrite(str(root / "ecssd/masks/1.png"), (coarse == 2).astype(np.uint8) * 255)
    halves = [
        {"id": i, "image_id": 1, "segmentation": rle(coarse == i), "area": int((coarse == i).sum())} for i in (1, 2)
    ]
    for name in ("panoptic_train", "instances_train"):
        coco(root / "coco" / name, image, halves)
    right = coarse == 2
    part = right & (np.arange(120)[:, None] < 60)
    coco(
        root / "extra/faces/train",
        image,
        [
            {"id": 1, "image_id": 1, "level": "entity", "segmentation": rle(right), "area": int(right.sum())},
            {"id": 2, "image_id": 1, "level": "part", "parent": 1, "segmentation": rle(part), "area": int(part.sum())},
        ],
    )
    coco(
        root / "extra/car_parts/train",
        image,
        [{"id": 1, "image_id": 1, "level": "part", "segmentation": rle(part), "area": int(part.sum())}],
    )
    return root


@pytest.fixture(scope="module")
def photos(root: Path, tmp_path_factory: pytest.TempPathFactory) -> list[Photo]:
    return load_photos(root, tmp_path_factory.mktemp("kept") / "photos")


def cell_of(s: Sample) -> tuple[NDArray[np.intp], NDArray[np.intp]]:
    x, y = ((s.points_xy_px + 0.5) // MASK_STRIDE).astype(int).T
    return y, x


def check(s: Sample, size_px: int, prompts: int) -> None:
    """Each known level holds its point and stays on the photo; levels shrink."""
    assert s.image.shape == (size_px, size_px, 3)
    assert s.targets.shape == (prompts, 3, size_px // MASK_STRIDE, size_px // MASK_STRIDE)
    y, x = cell_of(s)
    held = s.targets[np.arange(prompts), :, y, x]
    assert (held == (s.known > 0)).all()
    assert s.known.any(axis=1).all(), "a prompt without any truth teaches nothing"
    assert not s.targets[:, :, ~s.valid].any()
    area = s.targets.sum((2, 3))
    for upper, lower in ((OBJECT, PART), (PART, SUBPART)):
        both = (s.known[:, upper] > 0) & (s.known[:, lower] > 0)
        assert (area[both, lower] <= area[both, upper]).all()
    assert all(0 <= o <= 512 - size_px and o % 16 == 0 for o in s.origin_xy_px)


@pytest.mark.parametrize("size_px", [128, 512])
@pytest.mark.parametrize("mix", [Mix(), INFERENCE_MIX])
def test_targets_are_nested_around_their_points(photos: list[Photo], size_px: int, mix: Mix) -> None:
    assert sorted(p.source for p in photos) == [
        "bsds500", "car_parts", "coco_instances", "coco_panoptic", "ecssd", "faces",
    ]  # fmt: skip
    samples = Samples(photos, seed=3)
    for number in range(40):
        check(samples.sample(number, size_px, 6, mix), size_px, 6)


def test_a_sample_follows_from_its_number(photos: list[Photo]) -> None:
    first = Samples(photos, seed=1).sample(5, 128, 4, Mix())
    again = Samples(photos, seed=1).sample(5, 128, 4, Mix())
    other = Samples(photos, seed=1).sample(6, 128, 4, Mix())
    np.testing.assert_array_equal(first.image, again.image)
    np.testing.assert_array_equal(first.targets, again.targets)
    assert not np.array_equal(first.image, other.image)


def test_the_second_call_reads_what_the_first_kept(root: Path, tmp_path: Path) -> None:
    first = load_photos(root, tmp_path / "photos")
    again = load_photos(tmp_path / "absent", tmp_path / "photos")
    assert [p.name for p in tmp_path.iterdir()] == ["photos"]
    for a, b in zip(first, again, strict=True):
        np.testing.assert_array_equal(a.image_hwc_rgb, b.image_hwc_rgb)
        np.testing.assert_array_equal(a.label_maps, b.label_maps)
        assert (a.source, a.rivals, a.base, a.regions) == (b.source, b.rivals, b.base, b.regions)
    with pytest.raises(FileNotFoundError, match="none of the data sets"):
        load_photos(tmp_path / "absent", tmp_path / "other")


def test_annotations_get_the_level_of_their_parents() -> None:
    squares = [np.zeros((40, 40), bool) for _ in range(4)]
    for i, mask in enumerate(squares):
        mask[2 * i : 40 - 2 * i, 2 * i : 40 - 2 * i] = True
    annotations = [
        {"id": 7, "level": "entity", "segmentation": rle(squares[0]), "area": 1600},
        {"id": 8, "level": "part", "parent": 7, "segmentation": rle(squares[1]), "area": 1296},
        {"id": 9, "level": "part", "parent": 8, "segmentation": rle(squares[2]), "area": 1024},
        {"id": 3, "level": "part", "segmentation": rle(squares[3]), "area": 784},
    ]
    maps = annotated(annotations, 40, 40)
    assert (maps[OBJECT] > 0).all()
    assert (maps[PART] > 0).sum() == 1296 and len(np.unique(maps[PART])) == 3
    assert (maps[SUBPART] > 0).sum() == 1024


def test_an_object_without_parts_falls_into_components() -> None:
    objects = np.zeros((64, 64), np.int16)
    objects[:20], objects[40:] = 1, 1
    objects[25:35] = 2
    empty = np.zeros_like(objects)
    parts = empty.copy()
    parts[25:30] = 5
    photo = nested(np.zeros((64, 64, 3), np.uint8), np.stack([objects, parts, empty]), "msrc")
    found = photo.label_maps
    assert found[PART][10, 3] != found[PART][50, 3] != 0
    assert found[PART][32, 3] == 0, "an object with parts: what is no part is not known"
    assert (found[SUBPART][objects > 0] > 0).all()


def test_regions_are_drawn_by_the_root_of_their_area() -> None:
    labels = np.ones((100, 100), np.int16)
    labels[:10, :10] = 2
    photo = whole(np.zeros((100, 100, 3), np.uint8), np.stack([labels] * 3), False, "msrc")
    rng = np.random.default_rng(0)
    small = np.mean([draw_region(photo, rng).label == 2 for _ in range(2000)])
    ratio = np.sqrt(9900 / 100)
    assert small == pytest.approx(ratio / (1 + ratio), abs=0.03)


def pictured_labels(size: tuple[int, int]) -> Photo:
    """A photo whose red channel is its label."""
    rng = np.random.default_rng(1)
    labels = rng.integers(1, 6, (size[0] // 20, size[1] // 20)).repeat(20, 0).repeat(20, 1).astype(np.int16)
    image = np.stack([labels * 40, labels * 0, labels * 0], -1).astype(np.uint8)
    return whole(image, np.stack([labels] * 3), False, "msrc")


@pytest.mark.parametrize("scale", [0.5, 0.8, 1.0, 2.3])
def test_a_window_shows_what_its_maps_say(monkeypatch: pytest.MonkeyPatch, scale: float) -> None:
    monkeypatch.setattr("esam_rt.export.train_tiny.views.recolored", lambda image, rng: image)
    photo = pictured_labels((160, 240))
    for seed in range(6):
        rng = np.random.default_rng(seed)
        view = window(photo, 128, scale, (rng.uniform(0, 240), rng.uniform(0, 160)), rng)
        tile = view.tiles[0]
        h, w = tile.maps.shape[1:]
        assert view.valid.sum() == h * w
        red = view.image[2::4, 2::4, 0][:h, :w]
        right = np.abs(red - tile.maps[0] * 40.0) < 20
        assert right.mean() > 0.75, "all but cells on edges"
        assert not view.image[h * 4 :].any() and not view.image[:, w * 4 :].any()


def test_a_mosaic_keeps_windows_apart() -> None:
    rng = np.random.default_rng(0)
    view = mosaic([window(pictured_labels((160, 240)), 64, 1.0, (60, 60), rng) for _ in range(4)])
    assert view.image.shape == (128, 128, 3) and view.valid.all()
    assert sorted((t.y, t.x) for t in view.tiles) == [(0, 0), (0, 16), (16, 0), (16, 16)]
    assert all(t.maps.shape == (3, 16, 16) for t in view.tiles)


@pytest.mark.parametrize("rivals", [False, True])
def test_a_pasted_object_lies_in_front_with_its_parts(monkeypatch: pytest.MonkeyPatch, rivals: bool) -> None:
    monkeypatch.setattr("esam_rt.export.train_tiny.views.recolored", lambda image, rng: image)
    image = np.full((100, 100, 3), 200, np.uint8)
    objects, parts = np.zeros((100, 100), np.int16), np.zeros((100, 100), np.int16)
    objects[20:60, 20:60] = 4
    parts[20:60, 20:60], parts[20:40, 20:60] = 1, 2
    donor = whole(image, np.stack([objects, parts, parts]), False, "weizmann")
    plain = np.ones((3 if not rivals else 2, 90, 128), np.int16)
    photo = whole(np.zeros((90, 128, 3), np.uint8), plain, rivals, "bsds500" if rivals else "msrc")
    view = window(photo, 128, 1.0, (60, 60), np.random.default_rng(0))
    before = int(view.tiles[0].maps.max())
    paste(view, donor, donor.regions[0], 40, np.random.default_rng(2))
    maps = view.tiles[0].maps
    pasted = maps[0] > before
    assert pasted.sum() == pytest.approx(100, abs=12)
    bright = view.image[2::4, 2::4, 0][: pasted.shape[0], : pasted.shape[1]] > 100
    assert (bright == pasted).mean() > 0.99
    assert (view.image[90:] == 0).all(), "not into the padding"
    assert [len(np.unique(m[pasted])) for m in maps] == ([1, 1] if rivals else [1, 2, 2])
    assert all(((m > before) == pasted).all() for m in maps)


@pytest.mark.parametrize("size_px", [128, 256])
def test_a_scene_has_nested_truth_everywhere(size_px: int) -> None:
    counts = []
    for seed in range(12):
        view = scene(size_px, np.random.default_rng(seed))
        (tile,) = view.tiles
        assert tile.maps.shape == (3, size_px // 4, size_px // 4) and (tile.maps > 0).all()
        counts.append([len(np.unique(m)) for m in tile.maps])
        for upper, lower in ((0, 1), (1, 2)):
            pairs = np.unique(np.stack([tile.maps[upper].ravel(), tile.maps[lower].ravel()]), axis=1)
            assert len(np.unique(pairs[1])) == pairs.shape[1], "a part lies in one object"
    objects, parts, subparts = np.array(counts).T
    assert objects.max() > 10 and (parts > objects).any() and (subparts > parts).any()


def test_sources_without_photos_are_left_out() -> None:
    samples = Samples([pictured_labels((160, 240))], seed=0)
    assert set(module.SOURCE_WEIGHT) >= {"msrc"}
    check(samples.sample(0, 128, 4, Mix()), 128, 4)
