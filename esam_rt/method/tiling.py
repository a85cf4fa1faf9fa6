"""Segments a photo window by window: tiles of large photos, and panoramas."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

from esam_rt.entity_map import EntityMap
from esam_rt.method.joining import EntityJoiner
from esam_rt.method.windows import windows_of
from esam_rt.sam.images import HostImage, Image
from esam_rt.sam.point_grids import Latitudes
from esam_rt.settings import Settings
from esam_rt.tracing import Trace


def segment_windows(
    image: Image,
    settings: Settings,
    segment: Callable[[Image, Latitudes | None, int], EntityMap],
    check: Callable[[], None],
) -> EntityMap:
    """Segment each window of a photo, and join their entities.

    Args:
        image: The photo.
        settings: All settings; ``tiles`` and ``panorama`` count here.
        segment: Segments a window. It gets the latitudes of its upper and lower edge if the photo is a panorama, and
            the number of windows that are left, this one included.
        check: Called before each window. It raises if the photo is cancelled.

    Raises:
        InputError: The photo is no panorama, or has more entities than a label map can hold.
    """
    photo_hw = image.shape[0], image.shape[1]
    windows = windows_of(photo_hw, settings.tiles, settings.panorama)
    wraps = settings.panorama.enabled
    if len(windows) == 1 and not wraps:
        return segment(image, None, 1)
    if wraps:  # a window may go over the edge, and an array on the GPU cannot
        image = HostImage(image.on_host(photo_hw))
    joiner, trace, maps = EntityJoiner(photo_hw, settings.tiles, wraps), Trace(), []
    for number, window in enumerate(windows):
        check()
        part = image.window(window.y0, window.x0, window.height, window.width)
        found = segment(part, window.latitudes, len(windows) - number)
        trace.spans.extend(found.spans)
        with trace.span("joining"):
            joiner.add(window, found)
        maps.append((found.complete, found.completed_stages, found.prompts_decoded))
    with trace.span("joining"):
        joined = joiner.result(settings.cleanup)
    complete, stages, prompts = zip(*maps, strict=True)
    return replace(
        joined,
        times_s=trace.seconds(),
        spans=tuple(trace.spans),
        complete=all(complete),
        completed_stages=min(stages, key=len),
        prompts_decoded=sum(prompts),
    )
