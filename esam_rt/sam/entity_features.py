"""Features of entities: the mean of the embedding over each entity."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from esam_rt.entity_map import EntityMap
from esam_rt.kernels.pooling import pooling_weights
from esam_rt.rounding import ceil_div
from esam_rt.sam.encoded_image import EncodedImage
from esam_rt.sam.geometry import PATCH_PX

SAMPLED_PX = 1024  # every n-th pixel of a larger image is used: the embedding has 64 positions a side at most
AT_ONCE = 512  # entities, 8 MB of weights


def entity_features(entities: EntityMap, encoded: EncodedImage) -> NDArray[np.float32]:
    """Average the embedding over each entity. Between its positions the embedding is interpolated bilinearly.

    Images with a side above 1,024 pixels are sampled at every n-th pixel. An entity between these pixels gets the
    embedding at its centroid.

    Args:
        entities: The entities of an image.
        encoded: The same image, encoded.

    Returns:
        float32 [N, C].
    """
    from scipy.sparse import csr_array  # takes 0.1 s to import, and few runs need features

    embedding = np.asarray(encoded.embedding)[0]
    channels, grid_h, grid_w = embedding.shape
    by_position = np.ascontiguousarray(embedding.reshape(channels, -1).T)
    step = ceil_div(max(entities.labels.shape), SAMPLED_PX)
    labels = entities.labels[::step, ::step]
    rows, columns = (
        np.clip((np.arange(0, side, step) + 0.5) * resized / side / PATCH_PX - 0.5, 0, positions - 1)
        for side, resized, positions in zip(
            entities.labels.shape, encoded.geometry.resized_hw, (grid_h, grid_w), strict=True
        )
    )
    features = np.empty((len(entities), channels), np.float32)
    for start in range(0, len(entities), AT_ONCE):
        part = slice(start, min(start + AT_ONCE, len(entities)))
        count = part.stop - start
        weights = pooling_weights(labels, start + 1, count, rows, columns, (grid_h, grid_w)).reshape(count, -1)
        pixels = weights.sum(axis=1, keepdims=True)
        # Most weights are 0. A dense product takes 30 ms of CPU on busy cores, as BLAS's threads wait for each other.
        features[part] = csr_array(weights / np.maximum(pixels, 1)) @ by_position
        between = start + np.flatnonzero(pixels[:, 0] == 0)
        if len(between):
            centers = encoded.geometry.from_pixels(entities.centroid_xy[between] + 0.5)
            features[between] = encoded.features_at(centers)
    return features
