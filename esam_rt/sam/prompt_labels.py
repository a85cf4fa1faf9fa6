"""Labels of point and box prompts, as SAM numbers them."""

from __future__ import annotations

import logging

_log = logging.getLogger("esam_rt")
NO_POINT, BACKGROUND, FOREGROUND, TOP_LEFT, BOTTOM_RIGHT = -1, 0, 1, 2, 3  # labels of SAM's points
# Labels of one prompt, by points_per_prompt. SAM adds a padding to points without a box, to more than one as well: two
# would take three tokens. A model of single points was trained with foreground alone.
PROMPTS: dict[int, tuple[tuple[int, ...], ...]] = {
    1: ((FOREGROUND,),),
    2: ((FOREGROUND, NO_POINT), (BACKGROUND, NO_POINT), (TOP_LEFT, BOTTOM_RIGHT)),
}
