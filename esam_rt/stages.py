"""The stages of the method that can make an entity."""

from __future__ import annotations

from enum import IntEnum


class Stage(IntEnum):
    """The stage that made an entity: a module of E-SAM, or a baseline."""

    MMG = 0
    EMR = 1
    USR = 2
    AMG = 3
    SAM_O = 4
    SUPERPIXELS = 5
