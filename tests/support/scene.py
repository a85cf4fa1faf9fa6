"""A promptable model that knows the truth: its engines answer from label maps."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from types import TracebackType
from typing import Any, Self

import numpy as np
from numpy.typing import NDArray
from skimage.measure import label

from esam_rt.engines import TensorSpec
from esam_rt.sam.models import ModelSpec
from esam_rt.sam.predictor import IMAGE_FEATURES, Engines, Sam

INPUT_PX = 256
SIDE = INPUT_PX // 4

ROW = ModelSpec("scene", "a scene that is known", "none", INPUT_PX, 0.88, 0.95, 1.0, 37)


class FakeEngine:
    """`Engine` around a function."""

    inputs: tuple[TensorSpec, ...] = ()
    outputs: tuple[TensorSpec, ...] = ()

    def __init__(self, function: Any) -> None:
        self._function = function
        self.closed = False

    def infer(self, feed: Mapping[str, Any], outputs_on_device: Collection[str] = ()) -> dict[str, Any]:
        out: dict[str, Any] = self._function(feed)
        assert set(outputs_on_device) <= out.keys()
        return out

    def close(self) -> None:
        self.closed = True

    def __enter__(self) -> Self:
        return self

    def __exit__(self, t: type[BaseException] | None, e: BaseException | None, tb: TracebackType | None) -> None:
        self.close()


class Scene:
    """Answers for the cell under each prompt.

    Args:
        masks: bool [3, C, SIDE, SIDE], three masks for each of the C = SIDE² cells.
        score: float32 [C, 3].
        margin: The absolute logit of every cell.
    """

    def __init__(self, masks: NDArray[np.bool_], score: NDArray[np.float32], margin: float = 4.0) -> None:
        self.masks, self.score, self.margin = masks, score, margin

    @classmethod
    def of_label_maps(cls, maps: NDArray[np.integer], score: tuple[float, float, float] = (0.95, 0.94, 0.93)) -> Scene:
        """Make a scene of label maps int [3, SIDE, SIDE]: object, part, sub-part. Label 0 scores 0.1."""
        masks = np.stack([[m == m[y, x] for y in range(SIDE) for x in range(SIDE)] for m in maps])
        scores = np.where(maps.reshape(3, -1).T > 0, np.float32(score), np.float32(0.1))
        return cls(masks, scores.astype(np.float32))

    def sam(self) -> Sam:
        return Sam(ROW, self.engines(), "0" * 64)

    def engines(self) -> Engines:
        answers = (self.encode, self.decode, self.upscale, self.logits)
        return Engines(*map(FakeEngine, answers))

    def encode(self, feed: Mapping[str, NDArray[Any]]) -> dict[str, NDArray[Any]]:
        image = feed["image"].astype(np.float32) / 255
        patches = image[0].reshape(INPUT_PX // 16, 16, INPUT_PX // 16, 16, 3).mean((1, 3))
        embedding = np.ascontiguousarray(patches.transpose(2, 0, 1))[None]
        return {"embedding": embedding} | dict.fromkeys(IMAGE_FEATURES, np.zeros(1))

    def _cells(self, points_xy_px: NDArray[np.float32]) -> NDArray[np.intp]:
        x, y = np.clip(points_xy_px[:, 0] // 4, 0, SIDE - 1).astype(np.intp).T
        return y * SIDE + x

    def decode(self, feed: Mapping[str, NDArray[Any]]) -> dict[str, NDArray[Any]]:
        """Return the cells of the prompts as tokens."""
        cells = self._cells(feed["points_xy_px"])
        return {"predicted_iou": self.score[cells], "tokens": cells, "prompt_image_embeddings": np.zeros(1)}

    def masks_of(self, mask_index: Any, tokens: NDArray[np.intp]) -> NDArray[np.bool_]:
        """Return masks of prompts: one each, or all three for a slice."""
        return self.masks[mask_index, tokens]

    def upscale(self, feed: Mapping[str, NDArray[Any]]) -> dict[str, NDArray[Any]]:
        cells = feed["tokens"][feed["index"]]
        h, w = feed["valid_hw"]
        rows, columns = feed["cells"].shape
        np.testing.assert_array_equal(
            feed["cells"], np.arange((SIDE // 4) ** 2).reshape(SIDE // 4, -1)[:rows, :columns]
        )
        assert columns % 2 == 0
        masks = self.masks_of(slice(None), cells).swapaxes(0, 1).copy()
        masks[:, :, h:] = False
        masks[:, :, :, w:] = False
        assert 4 * rows >= h
        assert 4 * columns >= w
        area = masks.sum((2, 3))
        box = np.zeros((len(cells), 3, 4), np.int32)
        for n, three in enumerate(masks):
            for i, mask in enumerate(three):
                if mask.any():
                    ys, xs = np.nonzero(mask)
                    box[n, i] = xs.min(), ys.min(), xs.max() + 1, ys.max() + 1
        return {
            "stability_score": np.full(
                (len(cells), 3), 1.0 if feed["stability_offset"] < self.margin else 0.0, np.float32
            ),
            "area": area.astype(np.int32),
            "box_xyxy": box,
            "bits": np.packbits(masks[:, :, : 4 * rows, : 4 * columns], axis=3, bitorder="little"),
        }

    def logits(self, feed: Mapping[str, NDArray[Any]]) -> dict[str, NDArray[Any]]:
        masks = self.masks_of(feed["mask_index"], feed["tokens"])
        return {"logits": np.where(masks, np.float32(self.margin), np.float32(-self.margin))}


class ColorScene(Scene):
    """Sees the colors of each image that it encodes: touching cells of one color are one object, except of `nothing`.

    Args:
        palette: uint8 [K, 3]. A cell has the nearest of these colors.
        nothing: Index of a color.
    """

    def __init__(self, palette: NDArray[np.uint8], nothing: int = 0) -> None:
        super().__init__(np.zeros((3, 0, SIDE, SIDE), bool), np.zeros((0, 3), np.float32))
        self.palette, self.nothing = palette.astype(np.int64), nothing
        self._labels: list[NDArray[np.integer]] = []  # of each image, since several may be in work

    @property
    def encoded(self) -> int:
        """Number of images that were encoded."""
        return len(self._labels)

    def encode(self, feed: Mapping[str, NDArray[Any]]) -> dict[str, NDArray[Any]]:
        centers = feed["image"][0, 1::4, 1::4].astype(np.int64)
        colors = ((centers[:, :, None] - self.palette) ** 2).sum(3).argmin(2)
        self._labels.append(label(colors, background=self.nothing))
        return super().encode(feed) | {IMAGE_FEATURES[0]: np.array([len(self._labels) - 1])}

    def decode(self, feed: Mapping[str, NDArray[Any]]) -> dict[str, NDArray[Any]]:
        number, cells = int(feed[IMAGE_FEATURES[0]][0]), self._cells(feed["points_xy_px"])
        is_nothing = self._labels[number].ravel()[cells] == 0
        score = np.where(is_nothing[:, None], [0.1] * 3, [0.95, 0.94, 0.93]).astype(np.float32)
        tokens = cells + number * SIDE**2
        return {"predicted_iou": score, "tokens": tokens, "prompt_image_embeddings": np.zeros(1)}

    def masks_of(self, mask_index: Any, tokens: NDArray[np.intp]) -> NDArray[np.bool_]:
        number, cell = np.divmod(tokens, SIDE**2)
        labels = np.stack(self._labels)
        masks = labels[number] == labels.reshape(len(labels), -1)[number, cell][:, None, None]
        return np.broadcast_to(masks, (3, *masks.shape)) if isinstance(mask_index, slice) else masks


def photo_of(labels: NDArray[np.integer], scale: int = 4, seed: int = 0) -> NDArray[np.uint8]:
    """Paint labels [H, W] with one color each and a little noise: uint8 [H * scale, W * scale, 3]."""
    rng = np.random.default_rng(seed)
    colors = rng.integers(0, 256, (int(labels.max()) + 1, 3))
    image = colors[labels].repeat(scale, 0).repeat(scale, 1) + rng.integers(
        -4, 5, (*np.multiply(labels.shape, scale), 3)
    )
    return np.clip(image, 0, 255).astype(np.uint8)


def quadrants() -> NDArray[np.int64]:
    """Return [3, SIDE, SIDE]: four objects. The first has two parts, and one of these has two sub-parts."""
    half, quarter = SIDE // 2, SIDE // 4
    objects = np.ones((SIDE, SIDE), np.int64)
    objects[:half, half:], objects[half:, :half], objects[half:, half:] = 2, 3, 4
    parts = objects.copy()
    parts[:half, :quarter] = 5
    subparts = parts.copy()
    subparts[:quarter, :quarter] = 6
    return np.stack([objects, parts, subparts])
