"""Lifting: synthetic scenes with known geometry, and projection by formulas written apart from OpenCV's."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import cv2
import numpy as np
import pytest
from numpy.typing import NDArray

from esam_rt import EntityMap
from esam_rt.errors import InputError
from esam_rt.lifting import Camera, lift_depth, paint_points

WIDTH, HEIGHT = 320, 240
PLUMB_BOB = (-0.28, 0.07, 0.0008, -0.0005, 0.001)
RATIONAL = (0.4, 0.1, 0.0005, -0.0003, 0.002, 0.6, 0.15, 0.01)
CAMERAS = {
    "pinhole": Camera(WIDTH, HEIGHT, 200, 210, 158.3, 121.7),
    "plumb_bob": Camera(WIDTH, HEIGHT, 200, 210, 158.3, 121.7, PLUMB_BOB),
    "rational": Camera(WIDTH, HEIGHT, 200, 210, 158.3, 121.7, RATIONAL),
}


def seen_at(camera: Camera, xyz: NDArray[np.float64]) -> NDArray[np.float64]:
    """Pixels by the formulas of plumb_bob and rational_polynomial."""
    x, y = xyz[:, 0] / xyz[:, 2], xyz[:, 1] / xyz[:, 2]
    k1, k2, p1, p2, k3, k4, k5, k6 = (*camera.distortion, *(0.0,) * (8 - len(camera.distortion)))
    r = x * x + y * y
    radial = (1 + k1 * r + k2 * r**2 + k3 * r**3) / (1 + k4 * r + k5 * r**2 + k6 * r**3)
    u = x * radial + 2 * p1 * x * y + p2 * (r + 2 * x * x)
    v = y * radial + p1 * (r + 2 * y * y) + 2 * p2 * x * y
    return np.stack([camera.fx * u + camera.cx, camera.fy * v + camera.cy], axis=1)


def boards(camera: Camera) -> tuple[EntityMap, NDArray[np.float64], NDArray[np.float64], NDArray[np.int64]]:
    """Three boards at different depths before the camera: labels, depth, points on the boards, board of each point.

    Labels and depth are rendered by ray casting: the direction of each pixel comes from a search, not from OpenCV.
    """
    slopes = np.stack(np.meshgrid(np.linspace(-1.4, 1.4, 1401), np.linspace(-1.2, 1.2, 1201)), axis=-1).reshape(-1, 2)
    rays = np.column_stack([slopes, np.ones(len(slopes))])
    pixel = np.floor(seen_at(camera, rays) + 0.5).astype(int)
    # x, y, half width, half height, depth
    places = [(-0.9, -0.2, 0.5, 0.7, 3.0), (0.8, 0.3, 0.6, 0.5, 2.5), (0.2, -1.2, 1.5, 0.3, 6.0)]
    labels, depth = np.zeros((HEIGHT, WIDTH), int), np.full((HEIGHT, WIDTH), np.inf)
    inside = (pixel >= 0).all(1) & (pixel < [WIDTH, HEIGHT]).all(1)
    for number, (x, y, w, h, z) in enumerate(places, 1):
        hit = inside & (np.abs(slopes * z - [x, y]) < [w, h]).all(1)
        column, row = pixel[hit].T
        nearer = depth[row, column] > z
        labels[row[nearer], column[nearer]], depth[row[nearer], column[nearer]] = number, z
    rng = np.random.default_rng(0)
    points, owner = [], []
    for number, (x, y, w, h, z) in enumerate(places, 1):
        # away from the borders of the board, by more than a pixel
        on = rng.uniform(-1, 1, (20_000, 2)) * (np.array([w, h]) - 2.5 * z / camera.fx) + [x, y]
        points.append(np.column_stack([on, np.full(len(on), z)]))
        owner.append(np.full(len(on), number))
    entities = EntityMap.from_labels(labels, np.array([0.9, 0.8, 0.7]), np.zeros(3, int))
    return entities, np.where(np.isinf(depth), 0, depth), np.concatenate(points), np.concatenate(owner)


@pytest.mark.parametrize("name", CAMERAS)
def test_projection_follows_the_formulas_and_directions_invert_it(name: str) -> None:
    camera = CAMERAS[name]
    rng = np.random.default_rng(1)
    xyz = np.column_stack([rng.uniform(-0.7, 0.7, (5000, 2)), np.ones(5000)]) * rng.uniform(0.5, 50, (5000, 1))
    pixels, seen = camera.project(xyz)
    assert seen.all()
    np.testing.assert_allclose(pixels, seen_at(camera, xyz), atol=1e-6)
    matrix = np.array([[camera.fx, 0, camera.cx], [0, camera.fy, camera.cy], [0, 0, 1]])
    coefficients = np.array(camera.distortion or [0.0] * 4)
    by_opencv = cv2.projectPoints(xyz, np.zeros(3), np.zeros(3), matrix, coefficients)[0][:, 0]
    np.testing.assert_allclose(pixels, by_opencv, atol=1e-6)
    np.testing.assert_allclose(camera.directions(pixels), xyz[:, :2] / xyz[:, 2:], atol=1e-9)


def test_directions_beyond_the_reach_of_the_distortion_are_not_seen() -> None:
    camera = Camera(WIDTH, HEIGHT, 200, 210, 158.3, 121.7, (-0.35, 0.05, 0, 0))
    xyz = np.column_stack([np.linspace(0, 8, 500), np.zeros(500), np.ones(500)])
    pixels, seen = camera.project(xyz)
    assert np.all(np.diff(pixels[seen, 0]) > 0)  # what is seen goes outward in the image, too
    assert 0.5 < xyz[seen, 0].max() < 2.0
    outermost = float(pixels[seen, 0].max())
    found = camera.directions(np.array([[outermost - 0.5, camera.cy], [outermost + 2, camera.cy]]))
    assert np.isfinite(found[0]).all() and np.isnan(found[1]).all()
    folded = seen_at(camera, xyz)[~seen, 0]
    assert ((folded >= 0) & (folded < WIDTH)).any()  # without the limit these would be painted


@pytest.mark.parametrize("name", ["pinhole", "plumb_bob", "rational"])
def test_laser_points_take_the_label_of_their_board(name: str) -> None:
    camera = CAMERAS[name]
    entities, _, points, owner = boards(camera)
    turn = np.array([[0, -1, 0], [0, 0, -1], [1, 0, 0]], float)  # x forward, y left, z up -> optical frame
    transform = np.eye(4)
    transform[:3, :3], transform[:3, 3] = turn, (0.1, -0.3, 0.2)
    lidar = (points - transform[:3, 3]) @ turn
    expected = seen_at(camera, points)
    visible = ((expected > 0.5) & (expected < [WIDTH - 1.5, HEIGHT - 1.5])).all(1)
    # a nearer board may hide a point: the pixel then belongs to that board
    nearest = np.array([0, 3.0, 2.5, 6.0])[owner]
    x, y = (points[:, :2] / points[:, 2:]).T
    for cx, cy, w, h, z in [(-0.9, -0.2, 0.5, 0.7, 3.0), (0.8, 0.3, 0.6, 0.5, 2.5)]:
        margin = 2.5 * z / camera.fx
        visible &= ~((np.abs(x * z - cx) < w + margin) & (np.abs(y * z - cy) < h + margin) & (nearest > z))
    label = paint_points(entities, lidar, camera, transform)
    assert visible.sum() > 20_000
    assert np.mean(label[visible] == owner[visible]) >= 0.999

    behind = paint_points(entities, -lidar * [1, 0, 0] - [5, 0, 0], camera, transform)
    assert not behind.any()
    assert not paint_points(entities, np.full((3, 3), np.nan), camera, transform).any()
    assert paint_points(entities, np.zeros((0, 3)), camera, transform).shape == (0,)


@pytest.mark.parametrize("name", CAMERAS)
def test_depth_becomes_points_on_the_boards(name: str) -> None:
    camera = CAMERAS[name]
    entities, depth, _, _ = boards(camera)
    depth[3, 5] = np.nan
    points = lift_depth(entities, depth, camera)
    assert len(points.xyz_m) == (depth > 0).sum()
    y, x = points.pixel_yx.T
    assert np.array_equal(points.label, entities.labels[y, x])
    np.testing.assert_allclose(seen_at(camera, points.xyz_m.astype(float)), np.stack([x, y], 1), atol=1e-3)
    np.testing.assert_allclose(points.xyz_m[:, 2], depth[y, x], rtol=1e-6)
    assert points.xyz_m.dtype == np.float32


def camera_info(**changes: Any) -> SimpleNamespace:
    k = [200, 0, 158.3, 0, 210, 121.7, 0, 0, 1]
    p = [190, 0, 160, 0, 0, 195, 120, 0, 0, 0, 1, 0]
    message = {"width": WIDTH, "height": HEIGHT, "distortion_model": "plumb_bob", "k": k, "d": list(PLUMB_BOB), "p": p}
    return SimpleNamespace(**message | changes)


def test_the_camera_of_a_message() -> None:
    assert Camera.from_camera_info(camera_info()) == CAMERAS["plumb_bob"]
    ros1 = camera_info()
    ros1.K, ros1.D, ros1.P = np.array(ros1.k), np.array(ros1.d), np.array(ros1.p)
    del ros1.k, ros1.d, ros1.p
    assert Camera.from_camera_info(ros1) == CAMERAS["plumb_bob"]
    assert Camera.from_camera_info(camera_info(), rectified=True) == Camera(WIDTH, HEIGHT, 190, 195, 160, 120)
    assert Camera.from_camera_info(camera_info(d=[0.0] * 5)) == CAMERAS["pinhole"]
    assert Camera.from_camera_info(camera_info(d=[], distortion_model="")) == CAMERAS["pinhole"]


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"k": [0.0] * 9}, "no calibration"),
        ({"k": []}, "no calibration"),
        ({"distortion_model": "equidistant", "d": [0.1, 0, 0, 0]}, "'equidistant' with 4 coefficients.*rectified=True"),
        ({"binning_x": 2}, "binning or a region"),
        ({"roi": SimpleNamespace(x_offset=4, y_offset=0)}, "binning or a region"),
    ],
)
def test_messages_that_describe_no_camera(changes: dict[str, Any], words: str) -> None:
    with pytest.raises(InputError, match=words):
        Camera.from_camera_info(camera_info(**changes))


def test_what_does_not_fit_is_refused() -> None:
    camera = CAMERAS["pinhole"]
    entities = EntityMap.from_labels(np.zeros((HEIGHT, WIDTH), int), np.zeros(0), np.zeros(0, int))
    small = EntityMap.from_labels(np.zeros((10, 12), int), np.zeros(0), np.zeros(0, int))
    with pytest.raises(InputError, match="found 12 x 10 pixels, expected 320 x 240"):
        lift_depth(small, np.ones((10, 12)), camera)
    with pytest.raises(InputError, match="found shape"):
        lift_depth(entities, np.ones((10, 12)), camera)
    with pytest.raises(InputError, match=r"Divide millimeters by 1000\.0"):
        lift_depth(entities, np.ones((HEIGHT, WIDTH), np.uint16), camera)
    with pytest.raises(InputError, match=r"expected \[N, 3\]"):
        paint_points(entities, np.ones((4, 4)), camera, np.eye(4))
    with pytest.raises(InputError, match="rotation and a translation"):
        paint_points(entities, np.ones((4, 3)), camera, np.eye(4) * 2)
    with pytest.raises(InputError, match="coefficients"):
        Camera(4, 4, 1, 1, 0, 0, (0.1,))
    with pytest.raises(InputError, match="focal lengths"):
        Camera(4, 4, 0, 1, 0, 0)
