"""Front end, superpixels and the three modules, each on its own."""

from __future__ import annotations

import itertools

import cv2
import numpy as np
import pytest
from numpy.typing import NDArray
from scipy import ndimage

from esam_rt import Settings
from esam_rt.masks import Level, MaskSet
from esam_rt.method.emr import guidance_votes, refine_entities
from esam_rt.method.grid_entities import GridEntities
from esam_rt.method.mmg import multi_level_masks
from esam_rt.method.prompt_set import PromptSet
from esam_rt.method.render import render_labels
from esam_rt.method.superpixels import SuperpixelMap, superpixels
from esam_rt.method.usr import fill_gaps, new_prompts
from esam_rt.sam.encoded_image import EncodedImage
from esam_rt.sam.geometry import Geometry
from esam_rt.sam.point_grids import point_grid
from esam_rt.settings import Emr, Mmg, Superpixels, Usr
from esam_rt.stages import Stage
from tests.kernels.oracles import dense_cover, dense_without_fragments
from tests.support.scene import ROW, SIDE, Scene, photo_of, quadrants

GRID = (16, 64)
GEOMETRY = Geometry(orig_hw=(64, 256), resized_hw=(64, 256), grid_hw=GRID)


def strip(*spans: tuple[int, int]) -> NDArray[np.bool_]:
    """Full-height masks over columns a…b of the grid."""
    masks = np.zeros((len(spans), *GRID), bool)
    for mask, (a, b) in zip(masks, spans, strict=True):
        mask[:, a:b] = True
    return masks


def pixel_strips(edges: list[int]) -> SuperpixelMap:
    """Superpixels of full height between the column edges."""
    labels = np.searchsorted(np.array(edges[1:]), np.arange(GRID[1]), side="right")
    centres = [((a + b) / 2 / GRID[1], 0.5) for a, b in itertools.pairwise(edges)]
    area = np.diff(edges) / GRID[1]
    return SuperpixelMap(np.tile(labels.astype(np.int32), (GRID[0], 1)), area, np.array(centres, np.float32))


def test_decoding_sorts_levels_by_area_and_filters() -> None:
    maps = quadrants()
    scene = Scene.of_label_maps(maps[::-1], score=(0.95, 0.97, 0.80))  # output 0 is the smallest, output 2 the object
    sam = scene.sam()
    filters = Settings().with_model_defaults(ROW.default_thresholds()).filters
    photo = sam.encode(photo_of(maps[0]))
    masks = sam.decode(photo, point_grid(16), 100, filters)
    assert masks.grid_hw == (SIDE, SIDE)
    assert not (masks.level == Level.OBJECT)[masks.mask_index == 2].any(), "an object below the score filter is dropped"
    assert (masks.predicted_iou >= 0.88).all()
    assert masks.prompt_index.min() == 100
    assert set(masks.mask_index[masks.is_best]) == {1}
    dense = masks.to_bool()
    np.testing.assert_array_equal(masks.area, dense.sum((1, 2)))
    for i in range(0, len(masks), 17):
        y, x = photo.geometry.to_cell_yx(point_grid(16)[masks.prompt_index[i] - 100][None])[0]
        truth = maps[::-1][masks.mask_index[i]]
        np.testing.assert_array_equal(dense[i], truth == truth[y, x])
    unstable = sam.decode(photo, point_grid(16), 0, filters.with_changes(stability_offset=5))
    assert len(unstable) == 0


def test_superpixels_follow_the_photo() -> None:
    truth = quadrants()[2]
    photo = photo_of(truth, scale=8)
    geometry = Geometry.of(photo.shape[:2], 256)
    pixels = superpixels(photo, geometry, Superpixels())
    assert pixels.labels_hw.shape == (SIDE, SIDE)
    assert pixels.area.sum() == pytest.approx(1)
    for k in np.unique(pixels.labels_hw):
        assert len(np.unique(truth[pixels.labels_hw == k])) == 1, "a superpixel crosses a boundary of the truth"
    cells = geometry.to_cell_yx(pixels.centroid_norm_xy)
    ys, xs = np.nonzero(pixels.labels_hw == 0)
    np.testing.assert_allclose(cells[0], [ys.mean(), xs.mean()], atol=1)


def test_density_is_high_where_superpixels_are_small() -> None:
    density = pixel_strips([0, 40, 60, 64]).density_map(0.9)
    assert density[0, 0] == 0
    assert density[0, 50] == pytest.approx(0.9 * (1 - 20 / 40))
    assert density[0, 63] == pytest.approx(0.9 * (1 - 4 / 40))


def test_mmg_keeps_objects_that_match_the_best_level_and_parts_in_dense_regions() -> None:
    # Objects: two nearly equal (the better stays), and one that no best mask resembles.
    objects = MaskSet.from_bool(strip((0, 30), (0, 29), (30, 60)), predicted_iou=[0.9, 0.95, 0.99], level=[0, 0, 0])
    parts = MaskSet.from_bool(
        strip((0, 20), (0, 13), (60, 64), (61, 64)), predicted_iou=[0.9, 0.8, 0.9, 0.8], level=[1] * 4
    )
    best = np.r_[[True, True, False], [False] * 4]
    joined = MaskSet.concatenate([objects, parts])
    coarse = MaskSet(**{**joined.__dict__, "is_best": best})
    levels = multi_level_masks(coarse, pixel_strips([0, 40, 60, 64]), Mmg(theta_o=0.8))
    assert levels.object.predicted_iou.tolist() == pytest.approx([0.95])
    # IoU 13/20 = 0.65 > 0.5 in the sparse region; 3/4 < 0.81 in the dense one.
    assert levels.part.box_xyxy[:, 0].tolist() == [0, 60, 61]
    assert len(levels.subpart) == 0


def test_votes_follow_equation_6() -> None:
    dense = strip((0, 40), (0, 20), (0, 40), (0, 20), (0, 10), (40, 64))
    fine = MaskSet.from_bool(
        dense,
        predicted_iou=[0.90, 0.95, 0.85, 0.99, 0.9, 0.8],
        prompt_index=[0, 0, 1, 1, 2, 3],
        level=[0, 1, 0, 1, 2, 0],
    )
    fine = MaskSet(**{**fine.__dict__, "is_best": np.array([False, True, False, True, True, True])})
    votes = guidance_votes(fine, 5, Emr())
    # 0: 0.95 - 0.90 < tau, its object; 1: 0.99 - 0.85 ≥ tau, its best; 2: no object passed; 4: nothing passed.
    assert votes.tolist() == [0, 3, 4, 5, -1]


def merge_fixture(gallery_span: tuple[int, int], features: NDArray[np.float32]) -> GridEntities:
    """Two adjacent objects 0…20 and 20…40 and one apart; superpixels of two columns, eight or more an object."""
    objects = MaskSet.from_bool(
        strip((0, 20), (20, 40), (48, 64)), predicted_iou=[0.9, 0.6, 0.8], prompt_index=[0, 1, 2]
    )
    embedding = np.zeros((1, 2, 16, 16), np.float32)
    embedding[0] = features[:, None, :]
    photo = EncodedImage(embedding, GEOMETRY)
    pixels = pixel_strips(list(range(0, 65, 2)))
    gallery = PromptSet.grid(1, GEOMETRY, lambda points_norm_xy: MaskSet.from_bool(strip(gallery_span)))
    return refine_entities(objects, gallery, photo, pixels, Emr(), 4)


def test_similar_neighbours_merge_when_the_gallery_shows_them_as_one() -> None:
    same = np.zeros((2, 16), np.float32)
    same[0, :10], same[1, 10:] = 1, 1  # the left 40 columns look alike, the right ones differ
    merged = merge_fixture((0, 41), same)
    assert merged.area.tolist() == [40 * 16, 16 * 16]
    assert merged.score[0] == pytest.approx((0.9 + 0.6) / 2)
    assert merged.sources[0] == ((0, 0), (1, 0))
    assert len(merge_fixture((0, 64), same)) == 3, "a gallery mask much larger than the pair does not show one entity"
    assert len(merge_fixture((0, 30), same)) == 3, "a gallery mask that leaves half of one out does not either"


def test_dissimilar_neighbours_stay_apart() -> None:
    differ = np.zeros((2, 16), np.float32)
    differ[0, :5], differ[1, 5:10], differ[0, 10:] = 1, 1, -1
    assert len(merge_fixture((0, 41), differ)) == 3


def test_overlapping_objects_that_the_gallery_shows_as_one_keep_all_their_sources() -> None:
    objects = MaskSet.from_bool(
        strip((20, 44), (0, 30), (10, 40), (50, 64)), predicted_iou=[0.7, 0.9, 0.8, 0.6], prompt_index=[5, 6, 7, 8]
    )

    def decode(points_norm_xy: NDArray[np.float32]) -> MaskSet:
        return MaskSet.from_bool(strip(*[(0, 44)] * len(points_norm_xy)), prompt_index=np.arange(len(points_norm_xy)))

    photo = EncodedImage(np.zeros((1, 2, 16, 16), np.float32), GEOMETRY)
    entities = refine_entities(objects, PromptSet.grid(8, GEOMETRY, decode), photo, pixel_strips([0, 32, 64]), Emr(), 4)
    assert [sorted(sources) for sources in entities.sources] == [[(5, 0), (6, 0), (7, 0)], [(8, 0)]]
    assert entities.area.tolist() == [44 * 16, 14 * 16]


def test_remaining_superpixels_become_prompts() -> None:
    entities = GridEntities.by_score(MaskSet.from_bool(strip((0, 30))), Stage.EMR, 4)
    pixels = pixel_strips([0, 16, 28, 44, 60, 64])
    parts = MaskSet.from_bool(strip((26, 46), (24, 64)))
    points = new_prompts(entities, pixels, parts, GEOMETRY, Usr(), 4)
    # 28…44 lies in the smaller part, 44…60 and 60…64 in the larger one: two prompts, at the parts' centroids.
    np.testing.assert_allclose(sorted(points[:, 0] * 64), [36, 44], atol=0.51)
    points = new_prompts(entities, pixels, MaskSet.empty(*GRID), GEOMETRY, Usr(), 4)
    np.testing.assert_allclose(sorted(points[:, 0] * 64), [37, 52, 62], atol=0.51)


def test_a_prompt_lies_inside_its_region() -> None:
    ring = np.ones((1, *GRID), bool)
    ring[0, 4:12, 8:56] = False
    entities = GridEntities.by_score(MaskSet.from_bool(~ring), Stage.EMR, 4)
    pixels = SuperpixelMap(np.zeros(GRID, np.int32), np.ones(1), np.full((1, 2), 0.5, np.float32))
    usr = Usr(outside=0.1)
    (point,) = new_prompts(entities, pixels, MaskSet.empty(*GRID), GEOMETRY, usr, 4)
    y, x = GEOMETRY.to_cell_yx(point[None])[0]
    assert ring[0, y, x]


def patchwork(seed: int) -> tuple[GridEntities, SuperpixelMap, MaskSet]:
    """Entities, superpixels of any shape that fill the grid, and part masks of a few of them each."""
    rng = np.random.default_rng(seed)
    y, x = np.indices(GRID)
    seeds = rng.integers(0, GRID, (40, 2))
    labels = np.hypot(*(np.stack([y, x])[:, None] - seeds.T[:, :, None, None])).argmin(0).astype(np.int32)
    labels[(y + x) % 23 == 0] = 40  # a superpixel of stripes, whose centroid may lie outside
    area = np.bincount(labels.ravel(), minlength=41) / labels.size
    pixels = SuperpixelMap(labels, area, np.zeros((41, 2), np.float32))

    def some(least: int, most: int) -> NDArray[np.bool_]:
        return np.isin(labels, rng.choice(41, rng.integers(least, most), replace=False))

    objects = MaskSet.from_bool(np.array([some(1, 6) for _ in range(5)]), predicted_iou=rng.random(5))
    noise = rng.random((30, *GRID)) < 0.01
    parts = MaskSet.from_bool(np.array([some(1, 9) for _ in range(30)]) ^ noise, predicted_iou=rng.random(30))
    return GridEntities.by_score(objects, Stage.EMR, 4), pixels, parts


def dense_of(entities: GridEntities) -> NDArray[np.bool_]:
    return entities.labels() == np.arange(1, len(entities) + 1)[:, None, None]


@pytest.mark.parametrize("seed", range(6))
@pytest.mark.parametrize("inside", [0.6, 0.95])
def test_prompts_are_those_of_the_definition(seed: int, inside: float) -> None:
    entities, pixels, parts = patchwork(seed)
    dense, free = parts.to_bool(), ~dense_of(entities).any(0)

    def middle(region: NDArray[np.bool_]) -> tuple[float, float]:
        ys, xs = np.nonzero(region)
        if region[round(ys.mean()), round(xs.mean())]:
            return float(xs.mean()), float(ys.mean())
        depth = ndimage.distance_transform_edt(np.pad(region, 1))[1:-1, 1:-1]
        iy, ix = np.unravel_index(depth.argmax(), depth.shape)
        return float(ix), float(iy)

    points = set()
    for k in range(41):
        region = (pixels.labels_hw == k) & free
        if region.sum() > 0.5 * (pixels.labels_hw == k).sum() and region.sum() >= 4:
            holders = [m for m in dense if (m & region).sum() >= inside * region.sum()]
            points.add(middle(min(holders, key=lambda m: int(m.sum())) if holders else region))
    expected = GEOMETRY.from_cell_xy(np.array(sorted(points)).reshape(-1, 2))
    assert len(expected) > 4
    np.testing.assert_array_equal(new_prompts(entities, pixels, parts, GEOMETRY, Usr(inside=inside), 4), expected)


@pytest.mark.parametrize("seed", range(6))
@pytest.mark.parametrize("rho", [0.05, 0.3])
def test_gaps_are_filled_as_defined(seed: int, rho: float) -> None:
    entities, _, additional = patchwork(seed)
    dense, more = list(dense_of(entities)), additional.to_bool()
    sources, stage = [list(s) for s in entities.sources], list(entities.stage)
    taken = dense_cover(more, additional.predicted_iou, np.any(dense, axis=0), 4)
    for i in taken:
        iou = [(m & more[i]).sum() / (m | more[i]).sum() for m in dense]
        new = more[i] & ~np.any(dense, axis=0)
        if iou[best := int(np.argmax(iou))] > rho:
            dense[best] = dense[best] | new
            sources[best].append((i, 0))
        else:
            dense.append(new)
            sources.append([(i, 0)])
            stage.append(Stage.USR)
    whole = dense_without_fragments(np.array(dense), 4)
    kept = np.flatnonzero(whole.sum((1, 2)) >= 4)
    filled = fill_gaps(entities, additional, Usr(rho=rho, gain_min=0.0), 4)
    np.testing.assert_array_equal(dense_of(filled), whole[kept])
    assert filled.sources == tuple(tuple(sources[k]) for k in kept)
    assert filled.stage.tolist() == [stage[k] for k in kept]
    assert len(taken) > 3 and (rho < 0.3 or len(filled) > len(entities))


def test_gaps_are_filled_by_few_masks() -> None:
    entities = GridEntities.by_score(MaskSet.from_bool(strip((0, 20))), Stage.EMR, 4)
    additional = MaskSet.from_bool(
        strip((10, 34), (36, 64), (40, 50), (19, 21), (0, 20)),
        predicted_iou=[0.9, 0.8, 0.99, 0.99, 0.99],
        prompt_index=[5, 6, 7, 8, 9],
    )
    filled = fill_gaps(entities, additional, Usr(), 4)
    # 36…64 covers most and is new; 10…34 overlaps the entity by 10/34 > rho and joins it; the others cover too little.
    assert [(int(b[0]), int(b[2])) for b in filled.box_xyxy] == [(0, 34), (36, 64)]
    assert filled.stage.tolist() == [Stage.EMR, Stage.USR]
    assert filled.sources == (((0, 0), (5, 0)), ((6, 0),))
    assert filled.score.tolist() == pytest.approx([1.0, 0.8])


@pytest.mark.parametrize("seed", range(4))
def test_rendering_matches_whole_fields(seed: int) -> None:
    """Soft logits: each entity's field on the whole grid, none's is the negated highest; the pixel's largest wins."""
    rng = np.random.default_rng(seed)
    geometry = Geometry.of((200, 256), 256)
    h, w = geometry.grid_hw
    logits = np.stack([cv2.GaussianBlur(rng.normal(size=(h, w)), (0, 0), 4) * 20 for _ in range(6)]).astype(np.float32)
    owner = logits.argmax(0)
    dense = np.stack([(owner == e) & (logits[e] > 0) for e in range(6)])
    dense[5] |= dense[4]  # an entity made of two masks, and cells that were taken from their own
    dense[4] = False
    objects = MaskSet.from_bool(dense[[0, 1, 2, 3, 5]], prompt_index=[0, 1, 2, 3, 5])
    sources = (((0, 0),), ((1, 0),), ((2, 0),), ((3, 0),), ((5, 0), (4, 0)))
    entities = GridEntities(
        objects.bits, w, objects.area, objects.box_xyxy, objects.predicted_iou, np.zeros(5, np.uint8), sources
    )
    points = np.arange(12, dtype=np.float32).reshape(6, 2)

    def answers(points_norm_xy: NDArray[np.float32], output: object) -> NDArray[np.float32]:
        return logits[(points_norm_xy[:, 0] // 2).astype(int)]

    labels = render_labels(entities, answers, geometry, points)

    raw = [logits[[p for p, _ in s]].max(0) for s in sources]
    fields = []
    for field, mask, box in zip(raw, objects.to_bool(), objects.box_xyxy, strict=True):
        signed = np.where(mask, np.maximum(field, 1e-3), np.minimum(field, -1e-3))
        outside = np.ones((h, w), bool)
        outside[max(0, box[1] - 1) : box[3] + 1, max(0, box[0] - 1) : box[2] + 1] = False
        signed[outside] = -1
        fields.append(signed)
    planes = np.stack([-np.max(fields, 0), *fields]).astype(np.float64)
    y = np.clip((np.arange(200) + 0.5) / 4 - 0.5, 0, h - 1)
    x = np.clip((np.arange(256) + 0.5) / 4 - 0.5, 0, w - 1)
    iy, ix = np.floor(y).astype(int), np.floor(x).astype(int)
    jy, jx = np.minimum(iy + 1, h - 1), np.minimum(ix + 1, w - 1)
    fy, fx = (y - iy)[:, None], (x - ix)[None]
    upper = planes[:, iy][:, :, ix] * (1 - fx) + planes[:, iy][:, :, jx] * fx
    lower = planes[:, jy][:, :, ix] * (1 - fx) + planes[:, jy][:, :, jx] * fx
    values = upper * (1 - fy) + lower * fy
    for e, mask in enumerate(objects.to_bool()):
        around = mask[iy][:, ix] | mask[iy][:, jx] | mask[jy][:, ix] | mask[jy][:, jx]
        values[e + 1][~around] = -np.inf
    second, first = np.sort(values, axis=0)[-2:]
    clear = first - second > 1e-3
    assert clear.mean() > 0.95
    np.testing.assert_array_equal(labels[clear], values.argmax(0)[clear])
