"""Engines and superpixels that answer from memory what they have answered before: many settings, one decoding."""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping
from types import TracebackType
from typing import Any, Self

import numpy as np
from numpy.typing import NDArray

from esam_rt.engines import TensorSpec
from esam_rt.method.superpixels import SuperpixelMap, superpixels
from esam_rt.sam.geometry import Geometry
from esam_rt.sam.predictor import IMAGE_FEATURES, PROMPT_FEATURES, Engines
from esam_rt.settings import Superpixels

Key = tuple[bytes, bytes]
"""A prompt: its points and labels."""


class EngineOf:
    """`Engine` around a function."""

    inputs: tuple[TensorSpec, ...] = ()
    outputs: tuple[TensorSpec, ...] = ()

    def __init__(self, answer: Callable[[Mapping[str, Any]], dict[str, Any]]) -> None:
        self._answer = answer

    def infer(self, feed: Mapping[str, Any], outputs_on_device: Collection[str] = ()) -> dict[str, Any]:
        """The function's answer."""
        return self._answer(feed)

    def close(self) -> None:
        """Nothing is open here."""

    def __enter__(self) -> Self:
        return self

    def __exit__(self, t: type[BaseException] | None, e: BaseException | None, tb: TracebackType | None) -> None:
        self.close()


class CachingEngines:
    """Remembers each prompt of a photo; `clear` between photos. Not for threads.

    In place of the decoder's tokens, which are large, the prompts are handed on, and in place of its images what it was
    fed. The tokens are kept of the last batch that was decoded, and computed anew where others are needed.
    """

    def __init__(self, engines: Engines) -> None:
        self._engines = engines
        self.clear()

    def clear(self) -> None:
        """Forget the photo."""
        self._photo: dict[str, Any] | None = None
        self._score: dict[Key, NDArray[np.float32]] = {}
        self._masks: dict[tuple[Key, float], dict[str, NDArray[Any]]] = {}
        self._fields: dict[tuple[Key, int], NDArray[np.float32]] = {}
        self._last: tuple[list[Key], Mapping[str, Any]] = [], {}

    def engines(self) -> Engines:
        """To be used in place of the given ones."""
        return Engines(*map(EngineOf, (self._encode, self._decode, self._upscale, self._draw)))

    def _encode(self, feed: Mapping[str, Any]) -> dict[str, Any]:
        if self._photo is None:
            self._photo = self._engines.encoder.infer(feed, outputs_on_device=IMAGE_FEATURES)
        return dict(self._photo)

    def _decode(self, feed: Mapping[str, Any]) -> dict[str, Any]:
        keys = [(p.tobytes(), k.tobytes()) for p, k in zip(feed["points_xy_px"], feed["labels"], strict=True)]
        self._run(feed, [i for i, key in enumerate(keys) if key not in self._score], keys)
        return {
            "predicted_iou": np.stack([self._score[key] for key in keys]),
            "tokens": keys,
            "prompt_image_embeddings": feed,
        }

    def _run(self, feed: Mapping[str, Any], index: list[int], keys: list[Key]) -> None:
        """Decode the prompts at `index` of a batch."""
        if index:
            part = {"points_xy_px": feed["points_xy_px"][index], "labels": feed["labels"][index]}
            out = self._engines.decoder.infer({**feed, **part}, outputs_on_device=PROMPT_FEATURES)
            self._last = [keys[i] for i in index], {name: out[name] for name in PROMPT_FEATURES}
            self._score |= zip(self._last[0], out["predicted_iou"], strict=True)

    def _tokens(self, wanted: list[Key], feed: Mapping[str, Any]) -> tuple[list[int], Mapping[str, Any]]:
        """Where in the last batch the prompts are, and its tokens and images."""
        if not set(wanted) <= set(self._last[0]):
            keys = feed["tokens"]
            self._run(feed["prompt_image_embeddings"], [keys.index(key) for key in wanted], keys)
        place = {key: i for i, key in enumerate(self._last[0])}
        return [place[key] for key in wanted], self._last[1]

    def _upscale(self, feed: Mapping[str, Any]) -> dict[str, Any]:
        offset = float(feed["stability_offset"])
        wanted = [feed["tokens"][i] for i in feed["index"]]
        missing = list(dict.fromkeys(key for key in wanted if (key, offset) not in self._masks))
        if missing:
            index, prompts = self._tokens(missing, feed)
            out = self._engines.mask_head.infer({**feed, **prompts, "index": np.array(index, np.int64)})
            for i, key in enumerate(missing):
                self._masks[key, offset] = {name: array[i].copy() for name, array in out.items()}
        found = [self._masks[key, offset] for key in wanted]
        return {name: np.stack([masks[name] for masks in found]) for name in found[0]}

    def _draw(self, feed: Mapping[str, Any]) -> dict[str, Any]:
        wanted = list(zip(feed["tokens"], feed["mask_index"].tolist(), strict=True))
        missing = [pair for pair in dict.fromkeys(wanted) if pair not in self._fields]
        if missing:
            index, prompts = self._tokens([key for key, _ in missing], feed)
            todo = dict(zip(missing, index, strict=True))
            while todo:  # of a prompt that is asked for at several levels one at a time
                now = {place: pair for pair, place in todo.items()}
                level = np.zeros(len(self._last[0]), np.int64)
                level[list(now)] = [output for _, output in now.values()]
                logits = self._engines.logits.infer({**prompts, "mask_index": level})["logits"]
                for place, pair in now.items():
                    self._fields[pair] = logits[place].copy()
                    del todo[pair]
        return {"logits": np.stack([self._fields[pair] for pair in wanted])}


class CachingSuperpixels:
    """`superpixels` that remembers a photo's map for each group of settings; `clear` between photos."""

    def __init__(self) -> None:
        self._seen: dict[Superpixels, SuperpixelMap] = {}

    def __call__(self, image_hwc_rgb: NDArray[np.uint8], geometry: Geometry, settings: Superpixels) -> SuperpixelMap:
        """As `superpixels`."""
        if settings not in self._seen:
            self._seen[settings] = superpixels(image_hwc_rgb, geometry, settings)
        return self._seen[settings]

    def clear(self) -> None:
        """Forget the photo."""
        self._seen.clear()
