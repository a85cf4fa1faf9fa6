"""Prompt SAM with points and boxes instead of a grid.

python examples/prompts.py photo.jpg              # tiny, which takes points alone
python examples/prompts.py photo.jpg vit_b        # SAM ViT-B, which takes boxes too
"""

import sys

import cv2
import numpy as np

from esam_rt import load_sam


def main(photo: str, model: str = "tiny") -> None:
    """Print the masks of a point, and of a box if the model takes boxes."""
    image = cv2.imread(photo)
    if image is None:
        sys.exit(f"{photo} cannot be read; give a JPEG or PNG file.")
    height, width = image.shape[:2]
    sam = load_sam(model)
    encoded = sam.encode(cv2.cvtColor(image, cv2.COLOR_BGR2RGB))  # once for each photo

    masks = sam.predict(encoded, points=np.array([[width / 2, height / 2]]))  # pixels, x before y
    for mask, score in zip(masks.to_bool(), masks.predicted_iou, strict=True):
        print(f"point: predicted IoU {score:.2f}, {mask.mean():.0%} of the working grid")
    if model != "tiny":
        box = np.array([[0.1 * width, 0.1 * height, 0.9 * width, 0.9 * height]])  # left, top, right, bottom
        for score in sam.predict(encoded, boxes=box).predicted_iou:
            print(f"box: predicted IoU {score:.2f}")
    sam.close()


if __name__ == "__main__":
    main(*sys.argv[1:])
