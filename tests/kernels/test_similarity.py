import os
import subprocess
import sys

import numpy as np
import pytest

from esam_rt.kernels.similarity import BLOCK, most_similar, pair_similarity, top_k, touching_pairs
from tests.kernels.oracles import cosine_similarity, dense_pair_similarity, dense_top_k, dense_touching_pairs


def run(code: str, **environment: str) -> str:
    command, environment = [sys.executable, "-c", code], os.environ | environment
    return subprocess.run(command, env=environment, capture_output=True, text=True, check=True).stdout


def test_similarity_is_the_cosine_and_zero_for_zeros() -> None:
    features = np.random.default_rng(0).normal(size=(40, 16)).astype(np.float32)
    features[3] = 0
    features[5] = 1e-6 * features[4]
    features[6] = -features[4]
    exact = cosine_similarity(features).astype(np.float64)
    np.fill_diagonal(exact, -np.inf)
    for i, others in enumerate(most_similar(features, 39)):
        np.testing.assert_allclose(exact[i, others], np.sort(exact[i])[:0:-1], atol=2e-6)
    similarity = cosine_similarity(features)
    for i in range(40):
        for j in range(40):
            a, b = features[i].astype(np.float64), features[j].astype(np.float64)
            expected = 0 if 3 in (i, j) else a @ b / np.sqrt((a @ a) * (b @ b))
            assert similarity[i, j] == pytest.approx(expected, abs=2e-6)


@pytest.mark.parametrize("k", [0, 1, 5, 29, 100])
@pytest.mark.parametrize("levels", [1, 4, 100_000])  # few levels: many equals
def test_top_k(k: int, levels: int) -> None:
    similarity = (np.random.default_rng(k).integers(0, levels, (30, 30)) / levels - 0.5).astype(np.float32)
    top = top_k(similarity, k)
    assert (top.dtype, top.shape) == (np.int32, (30, min(k, 29)))
    assert top.tolist() == dense_top_k(similarity, k)


def test_blocks_change_nothing() -> None:
    features = np.random.default_rng(0).normal(size=(2 * BLOCK + 7, 3)).astype(np.float32)
    similarity = cosine_similarity(features)
    blocks, whole = most_similar(features, 5), top_k(similarity, 5)
    rows = np.arange(len(features))[:, None]
    np.testing.assert_allclose(similarity[rows, blocks], similarity[rows, whole], atol=1e-6)
    assert not (blocks == rows).any()
    assert most_similar(features[:0], 5).shape == (0, 0)


@pytest.mark.parametrize(("count", "channels"), [(1, 128), (2, 1), (585, 128), (517, 256), (BLOCK, 33)])
def test_a_usual_photo_is_compared_in_small_products(count: int, channels: int) -> None:
    features = np.random.default_rng(count).normal(size=(count, channels)).astype(np.float32)
    exact = cosine_similarity(features).astype(np.float64)
    np.fill_diagonal(exact, -np.inf)
    nearest = most_similar(features, 5)
    expected = -np.sort(-exact, axis=1)[:, : min(5, count - 1)]
    assert nearest.shape == expected.shape
    np.testing.assert_allclose(np.take_along_axis(exact, nearest.astype(np.int64), 1), expected, atol=1e-6)


def test_a_usual_photo_wakes_no_other_thread() -> None:
    """The threads of BLAS wait in loops for the next product, and take cores from the encoder and other programs."""
    code = """
import time
import numpy as np
from esam_rt.kernels.similarity import most_similar
features = np.random.default_rng(0).normal(size=(585, 128)).astype(np.float32)
most_similar(features, 5)
process, thread = time.process_time(), time.thread_time()
for _ in range(50):
    most_similar(features, 5)
thread = time.thread_time() - thread
print((time.process_time() - process - thread) / thread)
"""
    assert float(run(code, OPENBLAS_NUM_THREADS="2")) < 0.1


def test_ten_thousand_centroids() -> None:
    angle = np.random.default_rng(1).permutation(10_000) * (2 * np.pi / 10_000)
    nearest = most_similar(np.stack([np.cos(angle), np.sin(angle)], 1).astype(np.float32), 2)
    step = np.abs(angle[nearest] - angle[:, None]) * 10_000 / (2 * np.pi)
    step = np.minimum(step, 10_000 - step)
    assert np.median(step) <= 5, "neighbors on a circle are the most similar, up to float32's cosine"


@pytest.mark.parametrize("count", [0, 1])
def test_top_k_of_nothing_and_of_one(count: int) -> None:
    assert top_k(np.ones((count, count), np.float32), 5).shape == (count, 0)


@pytest.mark.parametrize("seed", range(5))
def test_pair_similarity_is_equation_7(seed: int) -> None:
    rng = np.random.default_rng(seed)
    centroids, k, count = 50, 5, 7
    top = np.array([rng.choice(np.delete(np.arange(centroids), c), k, replace=False) for c in range(centroids)])
    owner = rng.integers(-1, count - 1, centroids)  # the last mask holds no centroid
    pairs = np.argwhere(np.ones((count, count)))
    similarity = pair_similarity(top.astype(np.int32), owner, pairs, count)
    assert similarity.dtype == np.float32
    np.testing.assert_array_equal(similarity, dense_pair_similarity(top, owner, pairs))
    assert not similarity[pairs == count - 1].any()
    assert similarity.any()


def test_pair_similarity_without_centroids_pairs_or_neighbours() -> None:
    pair, no_owner = np.array([[0, 2]]), np.zeros(0, np.int32)
    assert not pair_similarity(np.zeros((0, 5), np.int32), no_owner, pair, 3).any()
    assert pair_similarity(np.zeros((0, 5), np.int32), no_owner, pair[:0], 0).shape == (0, 2)
    alone = np.zeros((1, 0), np.int32), np.zeros(1, np.int32)
    np.testing.assert_array_equal(pair_similarity(*alone, np.array([[0, 1]]), 2), [[0, 0]])


@pytest.mark.parametrize("shape", [(1, 1), (1, 40), (40, 1), (13, 17)])
@pytest.mark.parametrize("none", [0.0, 0.9, 1.0])
def test_touching_pairs(shape: tuple[int, int], none: float) -> None:
    rng = np.random.default_rng(0)
    labels = (rng.integers(1, 13, shape) * (rng.random(shape) >= none)).astype(np.int32)
    pairs = touching_pairs(labels)
    assert (pairs.dtype, pairs.shape[1]) == (np.int64, 2)
    assert pairs.tolist() == dense_touching_pairs(labels)


@pytest.mark.parametrize(
    ("labels", "touch"),
    [
        ([[1, 2]], True),
        ([[1], [2]], True),
        ([[1, 0], [0, 2]], True),
        ([[0, 1], [2, 0]], True),
        ([[1, 0, 2]], False),
        ([[1, 0, 0], [0, 0, 2]], False),
        ([[0, 1], [0, 0], [2, 0]], False),
        ([[1, 0, 0], [0, 0, 0], [2, 1, 1]], True),
    ],
)
def test_sides_and_corners_touch_and_a_gap_does_not(labels: list[list[int]], touch: bool) -> None:
    assert touching_pairs(np.array(labels)).tolist() == ([[0, 1]] if touch else [])


def test_the_largest_numbers_of_masks_are_kept_apart() -> None:
    assert touching_pairs(np.array([[65_535, 65_534]], np.int32)).tolist() == [[65_533, 65_534]]
