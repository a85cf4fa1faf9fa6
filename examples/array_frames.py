"""Segment arrays, such as frames of a camera, and read masks, boxes and COCO annotations.

python examples/array_frames.py
"""

import numpy as np

from esam_rt import EntitySegmenter, Settings


def frames(count: int) -> list[np.ndarray]:
    """Images uint8 [H, W, 3] in RGB: a bright square that moves over a dark ground."""
    images = np.full((count, 96, 128, 3), 40, np.uint8)
    for i, image in enumerate(images):
        image[30:70, 20 + 10 * i : 60 + 10 * i] = (220, 60, 60)
    return list(images)


def main() -> None:
    """Segment three frames with one segmenter."""
    with EntitySegmenter("tiny", settings=Settings.preset("fast")) as segment:
        for number, image in enumerate(frames(3)):
            entities = segment(image)
            print(f"frame {number}: {len(entities)} entities, labels {entities.labels.shape}")
            for mask, box in zip(entities.masks(), entities.box_xyxy, strict=True):
                print(f"  {mask.sum()} pixels in box {box.tolist()}")
            annotations = entities.to_coco(image_id=number)
            print(f"  {len(annotations)} COCO annotations")


if __name__ == "__main__":
    main()
