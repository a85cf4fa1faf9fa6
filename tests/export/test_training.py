"""The training of `tiny` on a data set of four small photos: targets are nested levels, and a step learns."""

from __future__ import annotations

import json
from pathlib import Path

import cv2
import numpy as np
import pytest
import torch
from pycocotools import mask as coco_mask

from esam_rt.export.train_tiny.tiny_model import Prediction, TinySam
from esam_rt.export.train_tiny.train import DISC_STEPS, cut_to_disc, losses, save
from esam_rt.export.train_tiny.training_data import MASK_STRIDE, _paste, load_photos, samples

# pycocotools 2.0.11 warns with NumPy 2 when it decodes.
pytestmark = pytest.mark.filterwarnings("ignore:__array__ implementation:DeprecationWarning")


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
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
    for part in ("panoptic_train", "instances_train"):
        (root / "coco" / part / "images").mkdir(parents=True)
        cv2.imwrite(str(root / "coco" / part / "images/1.jpg"), image)
        annotations = []
        for label in (1, 2):
            rle = coco_mask.encode(np.asfortranarray(coarse == label, np.uint8))
            rle["counts"] = rle["counts"].decode()
            annotations.append({"image_id": 1, "segmentation": rle, "area": int((coarse == label).sum())})
        entry = {"id": 1, "file_name": "1.jpg", "height": 120, "width": 160}
        text = json.dumps({"images": [entry], "annotations": annotations})
        (root / "coco" / part / "entities.json").write_text(text)
    return root


def test_targets_are_nested_levels_around_their_points(data: Path) -> None:
    photos = load_photos(data)
    assert sorted({p.source for p in photos}) == ["bsds500", "coco_instances", "coco_panoptic", "ecssd"]
    stream = samples(photos, 128, 8, seed=0)
    for _ in range(40):
        s = next(stream)
        assert s.image.shape == (128, 128, 3)
        area = s.targets.sum((2, 3))
        assert (np.diff(area, axis=1) <= 0).all(), "object, part, sub-part by area"
        assert (area[:, 2] > 0).all()
        x, y = ((s.points_xy_px + 0.5) // MASK_STRIDE).astype(int).T
        assert s.targets[np.arange(8), :, y, x].all(), "every level holds its point"
        h, w = (-(-side // MASK_STRIDE) for side in s.valid_hw)
        assert not s.targets[:, :, h:].any() and not s.targets[..., w:].any()


def test_a_disc_grows_and_goes(data: Path) -> None:
    s = next(samples([p for p in load_photos(data) if p.source == "bsds500"], 128, 8, seed=1))
    sizes = [float(cut_to_disc(s, step).sum()) for step in (0, DISC_STEPS // 2, DISC_STEPS)]
    assert sizes[0] < sizes[1] <= sizes[2] == s.targets.sum()


def test_losses_vanish_for_the_truth_and_measure_the_iou() -> None:
    target = torch.zeros(2, 3, 16, 16)
    target[:, :, :8] = 1
    valid = torch.ones(16, 16)
    right = Prediction((target * 2 - 1) * 30, torch.ones(2, 3))
    loss, iou = losses(right, target, valid)
    assert float(loss) < 1e-3
    assert iou.tolist() == [1, 1, 1]
    shifted = Prediction((target.roll(4, 2) * 2 - 1) * 30, torch.full((2, 3), 1 / 3))
    worse, iou = losses(shifted, target, valid)
    assert float(worse) > 1
    assert iou.tolist() == pytest.approx([1 / 3] * 3)
    valid[8:] = 0  # padding does not count
    assert losses(shifted, target, valid)[1].tolist() == pytest.approx([1 / 2] * 3)


def test_steps_learn_and_the_file_is_whole(data: Path, tmp_path: Path) -> None:
    torch.manual_seed(0)
    s = next(samples([p for p in load_photos(data) if p.source == "bsds500"], 64, 4, seed=3))
    model = TinySam()
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-3)
    valid = torch.ones(16, 16)
    found = []
    for _ in range(12):
        embedding = model.encoder(torch.from_numpy(s.image)[None].permute(0, 3, 1, 2).float())[0]
        prediction = model.decoder(embedding, torch.from_numpy(s.points_xy_px), 64)
        loss, _ = losses(prediction, torch.from_numpy(s.targets).float(), valid)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        found.append(loss.item())
    assert found[-1] < 0.8 * found[0]
    save(model, tmp_path / "t.safetensors")
    assert [p.name for p in tmp_path.iterdir()] == ["t.safetensors"]


def test_a_pasted_object_comes_with_its_parts_and_stays_in_the_photo() -> None:
    image, donor = np.zeros((64, 64, 3), np.uint8), np.full((64, 64, 3), 200, np.uint8)
    maps, donor_maps = np.ones((3, 16, 16), np.int16), np.zeros((3, 16, 16), np.int16)
    donor_maps[:, 4:8, 4:12] = 5
    donor_maps[1:, 4:8, 8:12] = 6
    rivals = np.ones((2, 16, 16), np.int16)
    for target in (maps, rivals):
        image[:] = 0
        _paste(image, target, donor, donor_maps, (64, 40), np.random.default_rng(0))
        assert (image[20:28, 20:36] == 200).all()
        assert (image[:, 48:] == 0).all(), "not into the padding"
        pasted = target[0] != 1
        assert pasted.sum() == 4 * 6
        assert [len(np.unique(m[pasted])) for m in target] == ([1, 2, 2] if target is maps else [1, 1])
        assert all(1 not in m[pasted] and (m[~pasted] == 1).all() for m in target)
