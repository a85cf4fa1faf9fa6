"""Segment one photo and save its label map.

python examples/one_photo.py photo.jpg labels.png
"""

import sys

import cv2

from esam_rt import EntitySegmenter, Settings


def main(photo: str, out: str) -> None:
    """Segment `photo` and write its label map as a 16-bit PNG."""
    image = cv2.imread(photo)
    if image is None:
        sys.exit(f"{photo} cannot be read; give a JPEG or PNG file.")
    with EntitySegmenter("tiny", settings=Settings.preset("fast")) as segment:
        entities = segment(cv2.cvtColor(image, cv2.COLOR_BGR2RGB))
    cv2.imwrite(out, entities.labels)
    for i in range(len(entities)):
        print(f"label {i + 1}: score {entities.score[i]:.2f}, box {entities.box_xyxy[i].tolist()}")


if __name__ == "__main__":
    main(*sys.argv[1:])
