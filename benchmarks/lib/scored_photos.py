"""Photos with their truth and their score: COCO, BSDS500, or BSDS500 with a simulated model."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from benchmarks.lib.simulated_sam import INPUT_PX, ROW, SimulatedSam, entities_of, tree_of
from esam_rt import EntityMap
from esam_rt.evaluation import match_photo, read_truth
from esam_rt.evaluation.metrics.average_precision import AveragePrecision
from esam_rt.evaluation.metrics.bootstrap import Estimate, Scores
from esam_rt.evaluation.metrics.region_scores import RegionScores, compare
from esam_rt.evaluation.truth.bsds_truth import RegionTruth
from esam_rt.sam.geometry import Geometry
from esam_rt.sam.predictor import Sam
from esam_rt.sources.decode import read_photo
from esam_rt.sources.photo_search import PhotoFile, find_photos

ScoredPhoto = tuple[str, NDArray[np.uint8], Any]
"""Name without suffix, the photo uint8 [H, W, 3], and its truth for ``score``."""


class ScoredPhotos(Protocol):
    """A set of photos.

    Attributes:
        metric: The score's name.
    """

    metric: str

    def __len__(self) -> int: ...

    def __iter__(self) -> Iterator[ScoredPhoto]: ...

    def score(self, truth: Any, result: EntityMap) -> Any:
        """Compare a result with the truth."""
        ...

    def scores(self, scored: list[Any]) -> Scores:
        """Return the scores of all photos."""
        ...


def _some_of(folder: Path, every: int, limit: int | None) -> list[PhotoFile]:
    """Photos of a folder in the order of their names as text, so that the first ones are a mixture."""
    return sorted(find_photos([folder / "images"]), key=lambda file: file.name)[::every][:limit]


class TruthFolder:
    """Photos of a folder with entities.json (AP), or with segmentations/ (covering).

    Args:
        folder: The folder, with images/.
        every: Take every N-th photo.
        limit: Take at most so many of them.
    """

    def __init__(self, folder: Path, every: int, limit: int | None) -> None:
        masks = folder / "entities.json"
        self._truth: Any = read_truth(masks if masks.is_file() else folder)
        self._of_regions = isinstance(self._truth, RegionTruth)
        self.metric = "covering" if self._of_regions else "AP"
        self._photos = {Path(photo.name).stem: photo for photo in self._truth.photos}
        self._files = _some_of(folder, every, limit)

    def __len__(self) -> int:
        return len(self._files)

    def __iter__(self) -> Iterator[ScoredPhoto]:
        read = self._truth.annotated if self._of_regions else self._truth.entities
        for file in self._files:
            stem = file.path.stem
            yield stem, read_photo(file.path, file.name).image_hwc_rgb, read(self._photos[stem])

    def score(self, truth: Any, result: EntityMap) -> Any:
        """See ``ScoredPhotos``."""
        return compare(result.labels, truth) if self._of_regions else match_photo(truth, result.to_coco())

    def scores(self, scored: list[Any]) -> Scores:
        """See ``ScoredPhotos``."""
        return RegionScores(scored) if self._of_regions else AveragePrecision(scored)


class SimulatedFolder:
    """Photos of BSDS500 for a model that knows their truth.

    Args:
        folder: The folder, with images/ and segmentations/.
        every: Take every N-th photo.
        limit: Take at most so many of them.
        simulated: The model. It looks at each photo before that is returned.
    """

    metric = "AP"

    def __init__(self, folder: Path, every: int, limit: int | None, simulated: SimulatedSam) -> None:
        self._folder, self._simulated = folder, simulated
        self._files = _some_of(folder, every, limit)

    def sam(self) -> Sam:
        """Return the model."""
        return Sam(ROW, self._simulated.engines(), "0" * 64)

    def __len__(self) -> int:
        return len(self._files)

    def __iter__(self) -> Iterator[ScoredPhoto]:
        for seed, file in enumerate(self._files, 1):
            image = read_photo(file.path, file.name).image_hwc_rgb
            truth, levels = tree_of(self._folder, file.path.stem, image)
            self._simulated.look_at(levels, Geometry.of(truth.shape, INPUT_PX).grid_hw, seed)
            yield file.path.stem, image, entities_of(truth)

    def score(self, truth: Any, result: EntityMap) -> Any:
        """See ``ScoredPhotos``."""
        return match_photo(truth, result.to_coco())

    def scores(self, scored: list[Any]) -> Scores:
        """See ``ScoredPhotos``."""
        return AveragePrecision(scored)


def figures(estimate: Estimate) -> list[float | None]:
    """Return value, low and high end, with four places."""
    return [None if v is None else round(v, 4) for v in (estimate.value, estimate.low, estimate.high)]
