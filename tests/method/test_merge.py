"""Merging (E-SAM eq. 7 and 8) on random patchworks, against the definition in plain NumPy."""

from __future__ import annotations

import numpy as np
import pytest
from numpy.typing import NDArray
from scipy.sparse.csgraph import connected_components

from esam_rt.masks import MaskSet
from esam_rt.method.emr import merge_entities
from esam_rt.method.grid_entities import GridEntities
from esam_rt.method.prompt_set import PromptSet
from esam_rt.method.superpixels import SuperpixelMap
from esam_rt.sam.encoded_image import EncodedImage
from esam_rt.sam.geometry import Geometry
from esam_rt.settings import Emr
from esam_rt.stages import Stage
from tests.kernels.oracles import (
    cosine_similarity,
    dense_encompassing,
    dense_pair_similarity,
    dense_top_k,
    dense_touching_pairs,
)

GRID = (32, 64)
GEOMETRY = Geometry(orig_hw=(128, 256), resized_hw=(128, 256), grid_hw=GRID)
VOTES = 3


class Patchwork:
    """Entities of a photo, and what a gallery of 16² prompts has to say of them: each prompt one or two neighbors and
    some cells of others, or nothing."""

    def __init__(self, seed: int) -> None:
        rng = np.random.default_rng(seed)
        count, pixels, side = 14, 60, 16
        self.labels = cells_of(rng, count + 3) + 1
        self.labels[self.labels > count] = 0
        dense = self.labels == np.arange(1, count + 1)[:, None, None]
        masks = MaskSet.from_bool(dense, predicted_iou=rng.random(count), prompt_index=np.arange(count))
        self.entities = GridEntities.by_score(masks, Stage.EMR, 1)
        self.dense = self.entities.labels() == np.arange(1, count + 1)[:, None, None]
        labels = cells_of(rng, pixels)
        centroid = np.array([np.argwhere(labels == k).mean(0)[::-1] for k in range(pixels)])
        self.pixels = SuperpixelMap(labels, np.ones(pixels) / pixels, GEOMETRY.from_cell_xy(centroid))
        self.photo = EncodedImage(rng.normal(size=(1, 4, 16, 16)).astype(np.float32), GEOMETRY)
        self.asked: set[int] = set()
        self.gallery = PromptSet.grid(side, GEOMETRY, self._decode)
        self._index = {tuple(p): i for i, p in enumerate(self.gallery.points_norm_xy.tolist())}
        neighbors = dense_touching_pairs(self.labels)
        self.answers = np.zeros((side**2, *GRID), bool)
        for answer, (y, x) in zip(self.answers, self.gallery.cells_yx, strict=True):
            here = int(self.labels[y, x]) - 1
            pairs = [pair for pair in neighbors if here in pair]
            if pairs and rng.random() < 0.7:
                shown = pairs[rng.integers(len(pairs))]
                answer[:] = self.dense[shown].any(0) ^ (rng.random(GRID) < 0.03)

    def _decode(self, points_norm_xy: NDArray[np.float32]) -> MaskSet:
        index = np.array([self._index[tuple(point)] for point in points_norm_xy.tolist()])
        self.asked |= set(index.tolist())
        found = np.flatnonzero(self.answers[index].any((1, 2)))
        return MaskSet.from_bool(self.answers[index[found]], prompt_index=found)

    def candidates(self, settings: Emr) -> list[list[int]]:
        cells = GEOMETRY.to_cell_yx(self.pixels.centroid_norm_xy)
        owner = self.labels[cells[:, 0], cells[:, 1]] - 1
        top = dense_top_k(cosine_similarity(self.photo.features_at(self.pixels.centroid_norm_xy)), settings.top_k)
        pairs = np.array(dense_touching_pairs(self.labels))
        similar = dense_pair_similarity(np.array(top), owner, pairs).max(axis=1) >= settings.similarity_min
        return pairs[similar].tolist()

    def shown(self, pairs: list[list[int]], asked: set[int], settings: Emr) -> list[list[int]]:
        gallery = self.answers[sorted(asked)]
        which = dense_encompassing(self.dense, np.array(pairs), gallery, settings.encompass, settings.fill)
        return [pair for pair, g in zip(pairs, which, strict=True) if g >= 0]

    def prompts_of(self, pair: list[int], most: int) -> set[int]:
        y, x = self.gallery.cells_yx.T
        inside = np.isin(self.labels[y, x] - 1, pair)
        return set([int(p) for p in self.gallery.order if inside[p]][:most])


def cells_of(rng: np.random.Generator, count: int) -> NDArray[np.int32]:
    """The nearest of `count` places, int32 GRID."""
    y, x = np.indices(GRID)
    places = rng.integers(0, GRID, (count, 2))
    while len(np.unique(places, axis=0)) < count:
        places = rng.integers(0, GRID, (count, 2))
    return np.asarray(np.hypot(*(np.stack([y, x])[:, None] - places.T[:, :, None, None])).argmin(0), np.int32)


@pytest.mark.parametrize("gallery", ["lazy", "exact"])
@pytest.mark.parametrize("seed", range(8))
def test_what_is_merged_and_asked_is_what_the_definition_says(seed: int, gallery: str) -> None:
    p = Patchwork(seed)
    settings = Emr(gallery=gallery, votes=VOTES, similarity_min=0.3)
    before = set(range(256)) if gallery == "exact" else set(range(0, 256, 7))
    p.gallery.ask(np.isin(np.arange(256), sorted(before)))
    assert p.asked == before
    merged = merge_entities(p.entities, p.gallery, p.photo, p.pixels, settings, 1)

    candidates = p.candidates(settings)
    asked = set(before)
    if gallery == "lazy":
        shown = p.shown(candidates, before, settings)
        for pair in candidates:
            if pair not in shown:
                prompts = p.prompts_of(pair, VOTES)
                assert len(prompts) == VOTES
                asked |= prompts
        everything = set().union(*(p.prompts_of(pair, VOTES) for pair in candidates))
        assert shown and not everything <= asked, "what was shown before is not asked again"
    assert p.asked == asked
    joined = np.zeros((len(p.dense),) * 2, bool)
    for a, b in p.shown(candidates, asked, settings):
        joined[a, b] = True
    count, group_of = connected_components(joined, directed=False)
    groups = sorted(np.flatnonzero(group_of == g).tolist() for g in range(count))
    assert max(map(len, groups)) >= 3, "a chain"

    area = p.dense.sum((1, 2))
    dense = merged.labels() == np.arange(1, len(merged) + 1)[:, None, None]
    np.testing.assert_array_equal(dense, [p.dense[group].any(0) for group in groups])
    score = [sum(p.entities.score[i] * area[i] for i in group) / area[group].sum() for group in groups]
    np.testing.assert_allclose(merged.score, score, rtol=1e-6)
    assert merged.sources == tuple(tuple((i, 0) for i in group) for group in groups)
    assert merged.area.tolist() == [area[group].sum() for group in groups]
