"""Objects that are no photo: the error says the one line that makes them one, and that line is right."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image as Pillow

from esam_rt.errors import InputError
from esam_rt.sam.images import HostImage

RGB = np.arange(4 * 5 * 3, dtype=np.uint8).reshape(4, 5, 3)


@pytest.mark.parametrize(
    ("given", "remedy", "photo"),
    [
        (Pillow.fromarray(RGB).convert("RGBA"), 'np.asarray(image.convert("RGB"))', RGB),
        (RGB / np.float32(255), "(image * 255).round().astype(np.uint8)", RGB),
        (RGB[..., 0], "np.repeat(image.reshape(*image.shape[:2], 1), 3, axis=2)", RGB[..., [0, 0, 0]]),
        (RGB[..., :1], "np.repeat(image.reshape(*image.shape[:2], 1), 3, axis=2)", RGB[..., [0, 0, 0]]),
        (np.dstack([RGB, RGB[..., 0]]), "image[..., :3]", RGB),
        (RGB.transpose(2, 0, 1), "image.transpose(1, 2, 0)", RGB),
        (RGB.tolist(), "np.asarray(image, np.uint8)", RGB),
    ],
    ids=["pillow", "float", "gray", "one-channel", "rgba", "channels-first", "list"],
)
def test_the_error_says_the_line_that_helps(given: Any, remedy: str, photo: np.ndarray[Any, Any]) -> None:
    with pytest.raises(InputError, match=r"^Photo: expected a NumPy array uint8 .*, got ") as error:
        HostImage(given)
    assert remedy in str(error.value)
    mended = eval(remedy, {"np": np, "image": given})
    np.testing.assert_array_equal(HostImage(mended).on_host((4, 5)), photo)


@pytest.mark.parametrize(
    ("given", "words"),
    [
        ("photo.jpg", "Read the file"),
        (Path("photo.jpg"), "Read the file"),
        (RGB.astype(np.uint16), "Scale its values to 0 to 255"),
        (RGB[None], "one by one"),
        (np.zeros((0, 5, 3), np.uint8), "no pixels"),
        (np.zeros((4, 5, 8), np.uint8), "Choose three channels"),
        (None, "Make an array"),
    ],
)
def test_other_objects(given: Any, words: str) -> None:
    with pytest.raises(InputError, match=words):
        HostImage(given)


def test_a_window_is_a_view_and_goes_on_at_the_left_edge() -> None:
    image = HostImage(RGB)
    inside = image.window(1, 2, 3, 3)
    assert np.shares_memory(inside.on_host((3, 3)), RGB)
    np.testing.assert_array_equal(inside.on_host((3, 3)), RGB[1:4, 2:5])
    around = image.window(0, 3, 4, 6)
    np.testing.assert_array_equal(around.on_host((4, 6)), RGB[:, [3, 4, 0, 1, 2, 3]])
