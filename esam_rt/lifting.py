"""Entities in three dimensions: depth images become labeled points, and laser points take the labels of pixels."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.polynomial import Polynomial
from numpy.typing import ArrayLike, NDArray

from esam_rt.entity_map import EntityMap
from esam_rt.errors import InputError

_COEFFICIENTS = {"": (0,), "plumb_bob": (0, 4, 5), "rational_polynomial": (8,)}  # counts of each model of ROS
_STEPS = 10  # of Newton's method: 5 reach 1e-9 for lenses of 120 degrees


@dataclass(frozen=True)
class Camera:
    """A pinhole camera, as ``sensor_msgs/CameraInfo`` describes it.

    The optical frame has x to the right, y downward and z forward (REP 103). Pixel (0, 0) has its center at (0, 0).

    Attributes:
        width: Pixels.
        height: Pixels.
        fx: Focal length, pixels.
        fy: Focal length, pixels.
        cx: Principal point, pixels.
        cy: Principal point, pixels.
        distortion: Coefficients k1, k2, p1, p2, k3 of ``plumb_bob``, or the eight of ``rational_polynomial``. Empty for
            a rectified image.
    """

    width: int
    height: int
    fx: float
    fy: float
    cx: float
    cy: float
    distortion: tuple[float, ...] = ()

    def __post_init__(self) -> None:
        if len(self.distortion) not in (0, 4, 5, 8):
            raise InputError(f"Camera: found {len(self.distortion)} distortion coefficients, expected 0, 4, 5 or 8.")
        if self.fx <= 0 or self.fy <= 0:
            raise InputError(f"Camera: found focal lengths {self.fx} and {self.fy}, expected numbers above 0.")

    @classmethod
    def from_camera_info(cls, message: Any, rectified: bool = False) -> Camera:
        """Take the camera of a ``sensor_msgs/CameraInfo``, of ROS 1 or 2.

        Args:
            message: The message, of any library.
            rectified: The image is rectified: the camera of ``P``, without distortion.

        Raises:
            InputError: The camera is not calibrated, its distortion is of another kind, or the image is a part.
        """
        p, k = (np.asarray(getattr(message, n, getattr(message, n.lower(), ())), float).ravel() for n in ("P", "K"))
        d = tuple(float(v) for v in getattr(message, "D", getattr(message, "d", ())))
        binning = {int(getattr(message, name, 0)) for name in ("binning_x", "binning_y")}
        roi = getattr(message, "roi", None)
        if not binning <= {0, 1} or (roi is not None and (roi.x_offset or roi.y_offset)):
            raise InputError("CameraInfo: found binning or a region of interest, expected a whole image.")
        model = str(message.distortion_model)
        if rectified:
            matrix, d = p.reshape(3, 4) if p.size == 12 else p, ()
        else:
            matrix = k.reshape(3, 3) if k.size == 9 else k
            if len(d) not in _COEFFICIENTS.get(model, ()) and any(d):
                raise InputError(
                    f"CameraInfo: found distortion {model!r} with {len(d)} coefficients, expected plumb_bob or "
                    "rational_polynomial. Rectify the image, and pass rectified=True."
                )
        if matrix.ndim != 2 or matrix[0, 0] == 0:
            raise InputError("CameraInfo: found no calibration (a focal length of 0). Calibrate the camera first.")
        fx, fy, cx, cy = (float(matrix[at]) for at in ((0, 0), (1, 1), (0, 2), (1, 2)))
        return cls(int(message.width), int(message.height), fx, fy, cx, cy, d if any(d) else ())

    def directions(self, pixels_xy: NDArray[np.floating]) -> NDArray[np.float64]:
        """Return x / z and y / z of what pixels see, float64 [N, 2]. NaN if the lens brings no direction there.

        Args:
            pixels_xy: [N, 2], pixels.
        """
        target = (np.asarray(pixels_xy, np.float64).reshape(-1, 2) - [self.cx, self.cy]) / [self.fx, self.fy]
        slope = target
        with np.errstate(all="ignore"):  # far outside, the numbers may overflow
            for _ in range(_STEPS if self.distortion else 0):  # Newton's method
                found, (xx, xy, yy) = self._distorted(slope)
                dx, dy = (found - target).T
                slope = slope - np.stack([yy * dx - xy * dy, xx * dy - xy * dx], axis=1) / (xx * yy - xy * xy)[:, None]
            seen = (slope**2).sum(axis=1) < self._reach()
            seen &= (np.abs(self._distorted(slope)[0] - target) < 1e-6).all(axis=1)
        return np.where(seen[:, None], slope, np.nan)

    def project(self, xyz: NDArray[np.floating]) -> tuple[NDArray[np.float64], NDArray[np.bool_]]:
        """Project points of the optical frame.

        Args:
            xyz: [N, 3], any unit.

        Returns:
            Pixels float64 [N, 2], and bool [N]: the camera sees that direction. The pixel may lie outside of the image.
            Points behind the camera are not seen, and neither are directions beyond the reach of the distortion, where
            its polynomial turns back.
        """
        points = np.asarray(xyz, np.float64).reshape(-1, 3)
        ahead = np.isfinite(points).all(axis=1) & (points[:, 2] > 0)
        slope = np.divide(points[:, :2], points[:, 2:], out=np.zeros((len(points), 2)), where=ahead[:, None])
        seen = ahead & ((slope**2).sum(axis=1) < self._reach())
        return self._distorted(slope)[0] * [self.fx, self.fy] + [self.cx, self.cy], seen

    def _radial(self) -> tuple[Polynomial, Polynomial]:
        """Numerator and denominator of the radial distortion, as polynomials of the squared slope."""
        k1, k2, _, _, k3, k4, k5, k6 = (*self.distortion, *(0.0,) * (8 - len(self.distortion)))
        return Polynomial([1, k1, k2, k3]), Polynomial([1, k4, k5, k6])

    def _distorted(self, slope: NDArray[np.float64]) -> tuple[NDArray[np.float64], tuple[NDArray[np.float64], ...]]:
        """Distort slopes [N, 2]. Also return the derivatives of x by x, x by y (equal to y by x) and y by y."""
        x, y = slope.T
        square = x * x + y * y
        above, below = self._radial()
        radial = above(square) / below(square)
        growth = (above.deriv()(square) - radial * below.deriv()(square)) / below(square)
        p1, p2 = self.distortion[2:4] if self.distortion else (0.0, 0.0)
        u = x * radial + 2 * p1 * x * y + p2 * (square + 2 * x * x)
        v = y * radial + 2 * p2 * x * y + p1 * (square + 2 * y * y)
        xx = radial + 2 * x * x * growth + 2 * p1 * y + 6 * p2 * x
        xy = 2 * x * y * growth + 2 * p1 * x + 2 * p2 * y
        yy = radial + 2 * y * y * growth + 6 * p1 * y + 2 * p2 * x
        return np.stack([u, v], axis=1), (xx, xy, yy)

    def _reach(self) -> float:
        """Square of the slope where the radius in the image stops to grow with the slope."""
        above, below = self._radial()
        square = Polynomial([0, 1])  # the derivative of r · above(r²) / below(r²), times below²
        growth = above * below + 2 * square * (above.deriv() * below - above * below.deriv())
        roots = np.concatenate([growth.trim().roots(), below.trim().roots()]).astype(complex)
        turns = roots.real[(np.abs(roots.imag) < 1e-9) & (roots.real > 0)]
        return float(turns.min(initial=np.inf))


@dataclass(frozen=True, eq=False)
class LabeledPoints:
    """Points of a depth image.

    Attributes:
        xyz_m: float32 [P, 3], meters, in the camera's optical frame.
        label: uint16 [P]: 0 is no entity, i + 1 is entity i.
        pixel_yx: int32 [P, 2], row and column of each point.
    """

    xyz_m: NDArray[np.float32]
    label: NDArray[np.uint16]
    pixel_yx: NDArray[np.int32]


def lift_depth(entities: EntityMap, depth_m: ArrayLike, camera: Camera) -> LabeledPoints:
    """Turn a depth image into labeled points.

    Args:
        entities: Entities of the image that the depth belongs to.
        depth_m: [H, W], meters along the optical axis. Pixels without a finite depth above 0 are left out.
        camera: The camera of both.

    Returns:
        A point for each pixel with a depth, row by row. Pixels where the lens brings no light are left out.

    Raises:
        InputError: Depth, labels and camera have different sizes.
    """
    depth = np.asarray(depth_m)
    _check_size("entities", entities, camera)
    if depth.shape != entities.labels.shape:
        raise InputError(f"depth_m: found shape {depth.shape}, expected {entities.labels.shape}, that of the labels.")
    if not np.issubdtype(depth.dtype, np.floating):
        raise InputError(f"depth_m: found {depth.dtype}, expected meters as floats. Divide millimeters by 1000.0.")
    y, x = np.nonzero(np.isfinite(depth) & (depth > 0))
    slope = camera.directions(np.stack([x, y], axis=1))
    seen = np.isfinite(slope[:, 0])
    x, y, slope = x[seen], y[seen], slope[seen]
    z = depth[y, x].astype(np.float64)
    xyz = np.column_stack([slope * z[:, None], z]).astype(np.float32)
    return LabeledPoints(xyz, entities.labels[y, x], np.stack([y, x], axis=1).astype(np.int32))


def paint_points(
    entities: EntityMap, lidar_xyz: ArrayLike, camera: Camera, camera_from_lidar: ArrayLike
) -> NDArray[np.uint16]:
    """Give each laser point the label of its pixel.

    A point behind the surface that the camera sees takes that surface's label, since a laser scanner at another place
    sees past edges.

    Args:
        entities: Entities of the image.
        lidar_xyz: [N, 3], meters, in the frame of the scanner.
        camera: The camera of the image.
        camera_from_lidar: [4, 4], turns points of the scanner's frame into the camera's optical frame.

    Returns:
        uint16 [N]: 0 for no entity, behind the camera or outside of the image; i + 1 for entity i.

    Raises:
        InputError: A shape is wrong, or the transform is no rotation and translation.
    """
    points, transform = np.asarray(lidar_xyz, np.float64), np.asarray(camera_from_lidar, np.float64)
    _check_size("entities", entities, camera)
    if points.ndim != 2 or points.shape[1] != 3:
        raise InputError(f"lidar_xyz: found shape {points.shape}, expected [N, 3]. Pass x, y and z alone.")
    rigid = transform.shape == (4, 4) and np.array_equal(transform[3], [0, 0, 0, 1])
    if not rigid or not np.allclose(transform[:3, :3] @ transform[:3, :3].T, np.eye(3), atol=1e-3):
        raise InputError("camera_from_lidar: expected [4, 4] of a rotation and a translation, with last row 0 0 0 1.")
    pixels, seen = camera.project(points @ transform[:3, :3].T + transform[:3, 3])
    column, row = np.floor(np.where(seen[:, None], pixels, -1) + 0.5).T
    height, width = entities.labels.shape
    inside = (column >= 0) & (column < width) & (row >= 0) & (row < height)
    label = np.zeros(len(points), np.uint16)
    label[inside] = entities.labels[row[inside].astype(np.intp), column[inside].astype(np.intp)]
    return label


def _check_size(name: str, entities: EntityMap, camera: Camera) -> None:
    height, width = entities.labels.shape
    if (height, width) != (camera.height, camera.width):
        raise InputError(
            f"{name}: found {width} x {height} pixels, expected {camera.width} x {camera.height}, as the camera has. "
            "Use the camera of this image."
        )
