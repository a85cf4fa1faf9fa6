"""The whole pipeline on scenes whose truth is known."""

from __future__ import annotations

import hashlib
import itertools
import json
import os
import pickle
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Collection, Mapping
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from esam_rt import EntityMap, EntitySegmenter, Settings, pipeline, segmenter
from esam_rt.errors import DecodingCancelledError, EngineError, InputError, SettingsError
from esam_rt.loading.execution import ExecutionConfig
from esam_rt.method.baselines import region_entities
from esam_rt.method.mmg import multi_level_masks
from esam_rt.method.superpixels import SuperpixelMap, superpixels
from esam_rt.sam import predictor
from esam_rt.sam.geometry import Geometry
from esam_rt.sam.images import HostImage
from esam_rt.segmenter import METHODS, SegmenterConfig
from esam_rt.settings import Superpixels
from esam_rt.stages import Stage
from tests.support.processes import GUARD_S
from tests.support.scene import SIDE, Scene, photo_of, quadrants

ROOT = Path(__file__).parents[1]
SWITCHES = list(itertools.product((False, True), repeat=3))


def settings_with(mmg: bool = True, emr: bool = True, usr: bool = True) -> Settings:
    """Settings with modules on or off."""
    modules = {"mmg.enabled": mmg, "emr.enabled": emr, "usr.enabled": usr}
    return Settings.preset("fast").with_overrides({"prompts.strategy": "grid", **modules})


def noisy_scene(seed: int) -> tuple[Scene, NDArray[np.uint8]]:
    """Masks that overlap, miss and contradict each other: random blobs around each cell, random scores."""
    rng = np.random.default_rng(seed)
    y, x = np.mgrid[:SIDE, :SIDE]
    cells = np.arange(SIDE * SIDE)
    centre = np.stack([cells // SIDE, cells % SIDE]) // 8 * 8 + rng.integers(0, 8, (2, SIDE * SIDE))
    radius = rng.uniform(2, 24, (3, SIDE * SIDE))
    distance = np.abs(y - centre[0][:, None, None]) + np.abs(x - centre[1][:, None, None])
    masks = np.stack([distance < r[:, None, None] for r in radius])
    return Scene(masks, rng.uniform(0.7, 1.0, (SIDE * SIDE, 3)).astype(np.float32)), photo_of(
        rng.integers(0, 5, (8, 8)).repeat(8, 0).repeat(8, 1)[:, :48], seed=seed
    )


def check_invariants(result: EntityMap, orig_hw: tuple[int, int]) -> None:
    assert result.labels.shape == orig_hw
    assert result.labels.dtype == np.uint16
    assert set(np.unique(result.labels)) - {0} == set(range(1, len(result) + 1))
    assert np.all(np.diff(result.score) <= 0)
    for i in range(len(result)):
        ys, xs = np.nonzero(result.labels == i + 1)
        assert result.area[i] == len(ys)
        assert result.box_xyxy[i].tolist() == [xs.min(), ys.min(), xs.max() + 1, ys.max() + 1]
        np.testing.assert_allclose(result.centroid_xy[i], [xs.mean(), ys.mean()], rtol=1e-5, atol=1e-3)


def test_known_objects_are_recovered_with_exact_boundaries() -> None:
    maps = quadrants()
    with EntitySegmenter(Scene.of_label_maps(maps).sam(), settings=settings_with()) as segment:
        result = segment(photo_of(maps[0], scale=8))
    check_invariants(result, (SIDE * 8, SIDE * 8))
    assert len(result) == 4
    truth = maps[0].repeat(8, 0).repeat(8, 1)
    for i in range(4):
        mask = result.labels == i + 1
        assert all((mask == (truth == k)).all() or not (mask & (truth == k)).any() for k in range(1, 5))
    assert set(result.stage) == {Stage.EMR}
    assert set(result.times_s) == {"encoder", "superpixels", "decoder", "mmg", "emr", "usr", "upsampling"}
    assert min(result.times_s.values()) > 0


@pytest.mark.parametrize("gallery", ["lazy", "exact"])
@pytest.mark.parametrize(("mmg", "emr", "usr"), SWITCHES)
def test_invariants_hold_for_every_switch(gallery: str, mmg: bool, emr: bool, usr: bool) -> None:
    scene, photo = noisy_scene(0)
    settings = settings_with(mmg, emr, usr).with_overrides({"emr.gallery": gallery, "emr.votes": 4})
    with EntitySegmenter(scene.sam(), settings=settings) as segment:
        first, second = segment(photo), segment(photo)
    check_invariants(first, photo.shape[:2])
    assert len(first) > 3
    np.testing.assert_array_equal(first.labels, second.labels)
    np.testing.assert_array_equal(first.score, second.score)


RECORDED: dict[str, list[Any]] = json.loads((Path(__file__).parent / "data" / "maps.json").read_text())


@pytest.mark.parametrize("name", RECORDED)
def test_maps_are_those_that_were_recorded(name: str) -> None:
    """Number of entities and hash of the map, recorded before prompts came in waves and boundaries were refined."""
    seed, method, *changes = name.split()
    scene, photo = noisy_scene(int(seed))
    settings = settings_with().with_overrides(dict(change.split("=") for change in changes))
    settings = settings.with_overrides({"render.refine": False, "cleanup.min_piece": 0, "cleanup.fill_holes": 0})
    with EntitySegmenter(scene.sam(), settings=settings, method=method) as segment:
        result = segment(photo)
    parts = (result.labels, result.score, result.stage)
    digest = hashlib.sha256(b"".join(part.tobytes() for part in parts)).hexdigest()[:16]
    assert [len(result), digest] == RECORDED[name]
    assert result.complete
    assert result.prompts_decoded > 150


def decoded_prompts(scene: Scene, photo: NDArray[np.uint8], gallery: str) -> tuple[EntityMap, int]:
    """The entities of a photo, and how many prompts the decoder was given."""
    sam, counts = scene.sam(), []
    decode = sam.engines.decoder.infer

    def counting(feed: Mapping[str, Any], outputs_on_device: Collection[str] = ()) -> dict[str, Any]:
        counts.append(len(feed["points_xy_px"]))
        return decode(feed, outputs_on_device)

    sam.engines.decoder.infer = counting  # type: ignore[method-assign]
    settings = settings_with().with_overrides({"emr.gallery": gallery, "emr.votes": 8})
    with EntitySegmenter(sam, settings=settings) as segment:
        return segment(photo), sum(counts)


def test_a_lazy_gallery_decodes_less_and_finds_the_same() -> None:
    """Two objects overlap in a quarter of the photo; three quarters of the prompts there see the left one."""
    columns = np.arange(SIDE)
    left, right = columns < SIDE * 5 // 8, columns >= SIDE * 3 // 8
    sees_left = np.tile(columns < SIDE * 9 // 16, SIDE)
    objects = np.where(sees_left[:, None], left, right)[:, None, :].repeat(SIDE, axis=1)
    scene = Scene(np.stack([objects] * 3), np.full((SIDE * SIDE, 3), 0.95, np.float32))
    photo = photo_of(np.tile(left + 1, (SIDE, 1)))
    exact, all_prompts = decoded_prompts(scene, photo, "exact")
    lazy, few_prompts = decoded_prompts(scene, photo, "lazy")
    assert sorted(exact.area / photo[..., 0].size) == pytest.approx([3 / 8, 5 / 8], abs=0.01)
    np.testing.assert_array_equal(exact.labels, lazy.labels)
    np.testing.assert_array_equal(exact.score, lazy.score)
    assert all_prompts - few_prompts >= 32**2 - 2 * 8, "of one overlap and one pair, eight prompts each"


def test_a_lazy_gallery_with_every_vote_splits_alike() -> None:
    """Without a bound on the votes nothing that an overlap asks is left out."""
    scene, photo = noisy_scene(3)
    results = []
    for gallery in ("exact", "lazy"):
        changes = {"emr.gallery": gallery, "emr.votes": 65536, "emr.vote_iou": 1.0, "emr.similarity_min": 100}
        settings = settings_with().with_overrides(changes)
        with EntitySegmenter(scene.sam(), settings=settings) as segment:
            results.append(segment(photo))
    np.testing.assert_array_equal(results[0].labels, results[1].labels)


@pytest.mark.parametrize("how", ["interrupt", "close"])
def test_an_exact_gallery_is_not_decoded_to_its_end_when_nobody_waits_for_it(
    monkeypatch: pytest.MonkeyPatch, how: str
) -> None:
    scene, photo = noisy_scene(0)
    sam, batches = scene.sam(), []
    began, is_left = threading.Event(), threading.Event()
    decode = sam.engines.decoder.infer

    def slow(feed: Mapping[str, Any], outputs_on_device: Collection[str] = ()) -> dict[str, Any]:
        if threading.current_thread().name.startswith("esam-rt"):
            batches.append(len(feed["points_xy_px"]))
            began.set()
            assert is_left.wait(GUARD_S)
        return decode(feed, outputs_on_device)

    def leave(*arguments: object) -> Any:
        assert began.wait(GUARD_S)
        if how == "interrupt":
            raise KeyboardInterrupt
        threading.Thread(target=segment.close).start()
        while not segment.is_closed:
            time.sleep(0.001)
        is_left.set()
        return multi_level_masks(*arguments)  # type: ignore[arg-type]

    monkeypatch.setattr(sam.engines.decoder, "infer", slow)
    monkeypatch.setattr(pipeline, "multi_level_masks", leave)
    segment = EntitySegmenter(sam, settings=settings_with().with_overrides({"emr.gallery": "exact"}))
    with pytest.raises(KeyboardInterrupt if how == "interrupt" else DecodingCancelledError):
        segment(photo)
    is_left.set()
    segment._pool.shutdown()  # and not yet close(), which would stop it too
    assert len(batches) == 1
    segment.close()


@pytest.mark.parametrize("gallery", ["lazy", "exact"])
def test_a_close_during_the_encoder_cancels_the_photo(monkeypatch: pytest.MonkeyPatch, gallery: str) -> None:
    scene, photo = noisy_scene(0)
    sam = scene.sam()
    encode = sam.engines.encoder.infer

    def close_first(feed: Mapping[str, Any], outputs_on_device: Collection[str] = ()) -> dict[str, Any]:
        segment.close()
        return encode(feed, outputs_on_device)

    monkeypatch.setattr(sam.engines.encoder, "infer", close_first)
    segment = EntitySegmenter(sam, settings=settings_with().with_overrides({"emr.gallery": gallery}))
    with pytest.raises(DecodingCancelledError):
        segment(photo)


@pytest.mark.parametrize("method", ["amg", "sam-o"])
def test_invariants_hold_for_the_baselines(method: str) -> None:
    scene, photo = noisy_scene(5)
    with EntitySegmenter(scene.sam(), settings=settings_with(), method=method) as segment:
        result = segment(photo)
    check_invariants(result, photo.shape[:2])
    assert set(result.stage) == {Stage.AMG if method == "amg" else Stage.SAM_O}
    assert {"emr", "usr"}.isdisjoint(result.times_s)


@pytest.mark.parametrize("algorithm", ["felzenszwalb", "slic"])
@pytest.mark.parametrize("orig_hw", [(SIDE * 8, SIDE * 8), (100, 37), (1, 900), (3, 2), (1, 1)])
def test_superpixels_alone(algorithm: str, orig_hw: tuple[int, int]) -> None:
    photo = photo_of(quadrants()[0], scale=8)[: orig_hw[0], : orig_hw[1]]
    if orig_hw[1] > photo.shape[1]:
        photo = np.resize(photo, (*orig_hw, 3))
    settings = Settings().with_overrides({"superpixels.method": algorithm})
    with EntitySegmenter(Scene.of_label_maps(quadrants()).sam(), settings=settings, method="superpixels") as segment:
        result = segment(photo)
    check_invariants(result, photo.shape[:2])
    assert (result.labels > 0).all()
    assert set(result.stage) == {Stage.SUPERPIXELS}
    assert result.score.sum() == pytest.approx(1)
    if orig_hw == (SIDE * 8, SIDE * 8):
        assert 100 < len(result) < 500 if algorithm == "slic" else len(result) >= 4
        truth = quadrants()[0].repeat(8, 0).repeat(8, 1)
        both = np.bincount((result.labels * np.int64(5) + truth).ravel(), minlength=5 * len(result) + 5).reshape(-1, 5)
        assert both.max(axis=1).sum() > 0.98 * truth.size, "superpixels follow the boundaries"


def test_more_superpixels_than_labels() -> None:
    photo = np.random.default_rng(0).integers(0, 256, (300, 300, 3)).astype(np.uint8)
    settings = Settings().with_overrides({"superpixels.min_size": 1, "superpixels.sigma": 0, "superpixels.scale": 0})
    sam = Scene.of_label_maps(quadrants()).sam()
    with (
        EntitySegmenter(sam, settings=settings, method="superpixels") as segment,
        pytest.raises(
            SettingsError, match=r"superpixels, but a label map holds at most 65535\. Raise superpixels\.min_size"
        ),
    ):
        segment(photo)


@pytest.mark.parametrize("count", [65_535, 65_536])
def test_as_many_superpixels_as_there_are_labels(count: int) -> None:
    regions = np.minimum(np.arange(256 * 256, dtype=np.int32), count - 1).reshape(256, 256)
    if count > 65_535:
        with pytest.raises(SettingsError, match="65536 superpixels"):
            region_entities(regions, (256, 256))
    else:
        assert len(region_entities(regions, (256, 256))) == count


def test_superpixels_may_come_from_elsewhere() -> None:
    """Two segmenters share the superpixels of an image."""
    seen: list[tuple[int, int]] = []
    shared: dict[tuple[int, int], SuperpixelMap] = {}

    def once(image: NDArray[np.uint8], geometry: Geometry, settings: Superpixels) -> SuperpixelMap:
        seen.append(image.shape[:2])
        if image.shape[:2] not in shared:
            shared[image.shape[:2]] = superpixels(image, geometry, settings)
        return shared[image.shape[:2]]

    scene, photo = noisy_scene(2)
    results = []
    for given in (None, once, once):
        with EntitySegmenter(scene.sam(), settings=settings_with(), superpixels=given) as segment:
            results.append(segment(photo).labels)
    assert (len(seen), len(shared)) == (2, 1)
    np.testing.assert_array_equal(results[0], results[1])
    np.testing.assert_array_equal(results[0], results[2])


def test_an_image_is_checked_once(monkeypatch: pytest.MonkeyPatch) -> None:
    checked: list[object] = []
    monkeypatch.setattr(predictor, "HostImage", type("Spy", (HostImage,), {"__init__": spy_on(checked)}))
    scene, photo = noisy_scene(0)
    for method in METHODS:
        with EntitySegmenter(scene.sam(), settings=settings_with(), method=method) as segment:
            segment(photo)
    assert len(checked) == len(METHODS)


def spy_on(checked: list[object]) -> Callable[[HostImage, object], None]:
    def init(self: HostImage, image: object) -> None:
        checked.append(image)
        HostImage.__init__(self, image)

    return init


@pytest.mark.parametrize("emr", [False, True])
def test_e_sam_with_slic(emr: bool) -> None:
    maps = quadrants()
    settings = settings_with(emr=emr).with_overrides({"superpixels.method": "slic"})
    with EntitySegmenter(Scene.of_label_maps(maps).sam(), settings=settings) as segment:
        assert len(segment(photo_of(maps[0], scale=8))) == 4


def test_baselines_take_the_best_and_the_largest_mask() -> None:
    maps = quadrants()
    scene = Scene.of_label_maps(maps, score=(0.90, 0.91, 0.99))
    photo = photo_of(maps[0])
    counts = {}
    for method in ("e-sam", "amg", "sam-o"):
        with EntitySegmenter(scene.sam(), settings=settings_with(), method=method) as segment:
            counts[method] = len(segment(photo))
    assert counts["sam-o"] == 4
    assert counts["amg"] == 6  # the sub-parts score best


def test_usr_fills_what_the_grids_missed() -> None:
    """Object 4 has no grid prompt of high confidence; only its centre, the centroid of its superpixel, answers."""
    maps = quadrants()
    scene = Scene.of_label_maps(maps)
    missed = np.flatnonzero(maps[0].ravel() == 4)
    middle = [y * SIDE + x for y in range(46, 50) for x in range(46, 50)]
    grid = [
        y * SIDE + x for y in range(1, SIDE, 2) for x in range(1, SIDE, 2)
    ]  # cells of the 32 grid; 2, 6, … of the 16
    grid += [y * SIDE + x for y in range(2, SIDE, 4) for x in range(2, SIDE, 4)]
    scene.score[np.setdiff1d(missed, np.setdiff1d(middle, grid))] = 0.1
    photo = photo_of(maps[0])
    with EntitySegmenter(scene.sam(), settings=settings_with(usr=False)) as segment:
        without = segment(photo)
    with EntitySegmenter(scene.sam(), settings=settings_with()) as segment:
        filled = segment(photo)
    assert (len(without), len(filled)) == (3, 4)
    assert np.mean(without.labels > 0) == pytest.approx(0.75)
    assert np.mean(filled.labels > 0) == 1
    assert sorted(filled.stage) == [Stage.EMR] * 3 + [Stage.USR]


@pytest.mark.parametrize("shape", [(1, 1), (1, 700), (5000, 1), (3, 5), (513, 17)])
def test_photos_of_extreme_shapes(shape: tuple[int, int]) -> None:
    scene, _ = noisy_scene(1)
    photo = np.random.default_rng(0).integers(0, 256, (*shape, 3)).astype(np.uint8)
    with EntitySegmenter(scene.sam(), settings=settings_with()) as segment:
        check_invariants(segment(photo), shape)


def test_a_photo_without_any_mask_gives_an_empty_map() -> None:
    scene, photo = noisy_scene(0)
    scene.score[:] = 0.1
    for method in set(METHODS) - {"superpixels"}:
        with EntitySegmenter(scene.sam(), settings=settings_with(), method=method) as segment:
            result = segment(photo)
        assert len(result) == 0
        assert not result.labels.any()


def test_settings_of_another_kind() -> None:
    with pytest.raises(SettingsError, match=r"settings: expected Settings, got dict; use Settings\(\)\.with_overrides"):
        EntitySegmenter("tiny", settings={"emr.delta": 0.1})  # type: ignore[arg-type]


FORK = """
import os, sys
from esam_rt import EntitySegmenter
from esam_rt.errors import EngineError
from tests.test_segmenter import noisy_scene, settings_with
scene, photo = noisy_scene(9)
with EntitySegmenter(scene.sam(), settings=settings_with()) as segment:
    segment(photo)
    child = os.fork()
    if child == 0:
        try:
            segment(photo)
        except EngineError as e:
            print(e, flush=True)
            os._exit(7)
        os._exit(0)
    sys.exit(os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]))
"""


@pytest.mark.skipif(not hasattr(os, "fork"), reason="no fork on this system")
def test_a_forked_child_is_told_to_make_its_own() -> None:
    """Without the error it would wait for ever for threads that only the parent has."""
    done = subprocess.run([sys.executable, "-c", FORK], capture_output=True, text=True, cwd=ROOT, timeout=GUARD_S)
    assert done.returncode == 7, done.stderr
    assert "Make one in each process, for example by SegmenterConfig(...).open()." in done.stdout


def test_pickling_says_to_make_one_in_each_process() -> None:
    scene, _ = noisy_scene(9)
    with (
        EntitySegmenter(scene.sam(), settings=settings_with()) as segment,
        pytest.raises(EngineError, match=r"cannot be pickled.* Make one in each process"),
    ):
        pickle.dumps(segment)
    config = SegmenterConfig("tiny", method="amg", execution=ExecutionConfig(threads=2))
    assert pickle.loads(pickle.dumps(config)) == config


def test_threads_share_one_segmenter() -> None:
    scenes = [noisy_scene(s)[1] for s in range(6)]
    scene, _ = noisy_scene(9)
    with EntitySegmenter(scene.sam(), settings=settings_with()) as segment:
        serial = [segment(p).labels for p in scenes]
        with ThreadPoolExecutor(4) as pool:
            together = list(pool.map(lambda p: segment(p).labels, scenes))
    for a, b in zip(serial, together, strict=True):
        np.testing.assert_array_equal(a, b)


@pytest.mark.parametrize(
    "photo",
    [
        np.zeros((4, 4), np.uint8),
        np.zeros((4, 4, 4), np.uint8),
        np.zeros((4, 4, 3), np.float32),
        np.zeros((0, 4, 3), np.uint8),
        [[1, 2, 3]],
    ],
    ids=["grey", "alpha", "float", "empty", "list"],
)
def test_other_arrays_are_refused(photo: NDArray[np.uint8]) -> None:
    scene, _ = noisy_scene(0)
    with (
        EntitySegmenter(scene.sam()) as segment,
        pytest.raises(InputError, match=r"expected a NumPy array uint8 \[height, width, 3\]"),
    ):
        segment(photo)


def test_unknown_names_suggest_the_nearest() -> None:
    with pytest.raises(SettingsError, match="Did you mean e-sam"):
        EntitySegmenter("tiny", method="esam")
    with pytest.raises(SettingsError, match="Did you mean tiny"):
        EntitySegmenter("tyni")
    with pytest.raises(SettingsError, match="Unknown device 'tpu'"):
        EntitySegmenter("tiny", execution=ExecutionConfig(device="tpu"))


def test_close_releases_the_engines_and_ends_use(monkeypatch: pytest.MonkeyPatch) -> None:
    scene, photo = noisy_scene(0)
    sam = scene.sam()
    with EntitySegmenter(sam):
        pass
    assert not sam.engines.encoder.closed, "a model that was handed in may be shared"
    monkeypatch.setattr(segmenter, "load_sam", lambda *_: sam)
    segment = EntitySegmenter("scene")
    segment.close()
    segment.close()
    assert all(engine.closed for engine in vars(sam.engines).values())
    with pytest.raises(EngineError, match="after close"):
        segment(photo)


def test_execution_in_the_form_of_earlier_versions() -> None:
    sam = noisy_scene(0)[0].sam()
    with (
        pytest.warns(DeprecationWarning, match=r"EntitySegmenter\(device, threads\): pass execution=ExecutionConfig"),
        EntitySegmenter(sam, device="cpu", threads=2) as segment,
    ):
        assert segment.execution == ExecutionConfig(device="cpu", threads=2)
    with pytest.raises(SettingsError, match="threads: given beside execution; expected them inside of it"):
        EntitySegmenter(sam, execution=ExecutionConfig(), threads=2)
