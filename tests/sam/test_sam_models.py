"""SAM ViT-B and MobileSAM from a checkpoint to entities, at their real size, in a process without PyTorch."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest
import torch
from PIL import Image
from skimage import data
from transformers import SamModel

from esam_rt.loading.loader import load_sam
from esam_rt.sam.predictor import Sam
from esam_rt.settings import Filters
from tests.export.test_sam_decoder import relative_error
from tests.support.checkpoints import mobile_sam_state_dict, sam_state_dict, save_pth, whole_vit_b
from tests.support.tinyvit_torch import normalised

EVERYTHING = Filters(score_min=0.0, stability_min=0.0, stability_offset=1.0, min_area=1)
FEW_PROMPTS = ("prompts.coarse_side=2", "prompts.fine_side=4", "filters.score_min=0", "filters.stability_min=0")
WITHOUT_TORCH = """
import sys
for name in ("torch", "torchvision", "transformers", "timm"):
    sys.modules[name] = None  # importing it raises ImportError
from esam_rt.cli.app import app
app()
"""


@pytest.fixture(scope="module")
def vit_b() -> SamModel:
    return whole_vit_b()


@pytest.fixture(scope="module")
def checkpoints(vit_b: SamModel, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    folder = tmp_path_factory.mktemp("checkpoints")
    files = {"vit_b": folder / "sam_vit_b.pth", "vit_t": folder / "mobile_sam.pt"}
    save_pth(files["vit_b"], sam_state_dict(vit_b))
    save_pth(files["vit_t"], mobile_sam_state_dict(vit_b))
    return files


@pytest.fixture(scope="module")
def cache(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("cache")


def esam_rt(cache: Path, *arguments: str | Path) -> str:
    """Run the command line in a process without PyTorch and return what it prints; warnings are errors."""
    command = [sys.executable, "-W", "error", "-c", WITHOUT_TORCH, *map(str, arguments)]
    done = subprocess.run(
        command, capture_output=True, text=True, check=False, env={"PATH": "", "ESAM_RT_CACHE": str(cache)}
    )
    assert (done.returncode, done.stderr) == (0, "")
    return done.stdout


@pytest.mark.parametrize("model", ["vit_b", "vit_t"])
def test_export_and_run_without_torch(checkpoints: dict[str, Path], cache: Path, tmp_path: Path, model: str) -> None:
    result = json.loads(esam_rt(cache, "export", model, "--checkpoint", checkpoints[model], "--json"))
    files = [Path(f) for f in result["files"]]
    assert {"encoder.onnx", "decoder.onnx", "mask_head.onnx", "logits.onnx"} <= {f.name for f in files}
    assert all(f.is_relative_to(cache) and f.is_file() for f in files)
    assert result["published"] is False
    stamps = [f.stat().st_mtime_ns for f in files]
    Image.fromarray(data.astronaut()[:300, :400]).save(tmp_path / "photo.png")
    settings = [word for setting in FEW_PROMPTS for word in ("--set", setting)]
    out = tmp_path / "out"
    esam_rt(
        *(cache, "run", tmp_path / "photo.png", "--out", out, "--model", model),
        *("--checkpoint", checkpoints[model], "--write", "labels,coco", *settings),
    )
    entities: dict[str, Any] = json.loads((out / "entities.json").read_text())
    assert entities["annotations"]
    labels = np.asarray(Image.open(next((out / "labels").iterdir())))
    assert labels.shape == (300, 400)
    assert labels.max() >= 1
    assert [f.stat().st_mtime_ns for f in files] == stamps, "the run exported again"


@pytest.fixture(scope="module")
def sam(checkpoints: dict[str, Path], cache: Path) -> Sam:
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("ESAM_RT_CACHE", str(cache))
        return load_sam("vit_b", checkpoint=checkpoints["vit_b"])


def test_whole_vit_b_against_transformers(vit_b: SamModel, sam: Sam) -> None:
    """Embedding, scores and logits of points on a photo that leaves a third of the input empty."""
    image = cv2.resize(data.astronaut()[:340], (1024, 680), interpolation=cv2.INTER_LINEAR)
    points = np.random.default_rng(0).uniform(0.05, 0.95, (6, 2)).astype(np.float32)
    photo = sam.encode(image)
    padded = np.zeros((1, 1024, 1024, 3), np.uint8)
    padded[0, :680] = image
    embedding = vit_b.vision_encoder(normalised(torch.from_numpy(padded), (680, 1024))).last_hidden_state
    assert embedding.std() > 0.5
    assert relative_error(photo.embedding, embedding.numpy()) < 1e-4
    xy = torch.from_numpy(photo.geometry.to_input_px(points))[None, :, None]
    out = vit_b(image_embeddings=embedding, input_points=xy, input_labels=torch.ones(1, 6, 1, dtype=torch.int))
    output = np.arange(6, dtype=np.uint8) % 3
    ours = sam.logits(photo, points, output)
    theirs = out.pred_masks[0].numpy()[np.arange(6), output][:, : ours.shape[1], : ours.shape[2]]
    assert ours.shape == (6, 170, 256)
    assert 0.05 < np.mean(theirs > 0) < 0.95
    assert relative_error(ours, theirs) < 1e-4
    masks = sam.decode(photo, points, 0, EVERYTHING)
    scores = out.iou_scores[0].numpy()[masks.prompt_index, masks.mask_index]
    assert len(masks) > 12
    assert relative_error(masks.predicted_iou, scores) < 1e-4
