"""Labels of point and box prompts, as SAM numbers them."""

from __future__ import annotations

NO_POINT, BACKGROUND, FOREGROUND, TOP_LEFT, BOTTOM_RIGHT = -1, 0, 1, 2, 3
# The labels that one prompt may have, by points_per_prompt. SAM pads points without a box. It pads two points too,
# which would take a third token. A model of single points was trained with foreground points only.
PROMPTS: dict[int, tuple[tuple[int, ...], ...]] = {
    1: ((FOREGROUND,),),
    2: ((FOREGROUND, NO_POINT), (BACKGROUND, NO_POINT), (TOP_LEFT, BOTTOM_RIGHT)),
}
