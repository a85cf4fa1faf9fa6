"""Quality against ground truth: COCO's AP^e, BSDS500's region and boundary measures, confidence intervals.

The scoring functions take masks and label maps and need no files:

    matches = [match_photo(entities, found.to_coco()) for entities, found in photos]
    average_precision(matches)["AP"]
    regions = [compare(found.labels, annotated) for found, annotated in photos]
    estimates(RegionScores(regions), resamples(len(regions), 1000, seed=0))["covering"]
"""

from esam_rt.evaluation.bootstrap import Estimate, differences, estimates, resamples
from esam_rt.evaluation.boundaries import boundary, match_boundaries
from esam_rt.evaluation.bsds_truth import RegionTruth
from esam_rt.evaluation.coco_truth import MaskTruth
from esam_rt.evaluation.common import TruePhoto
from esam_rt.evaluation.matching import PhotoMatches, match_photo
from esam_rt.evaluation.precision import AveragePrecision, average_precision
from esam_rt.evaluation.predictions import Predictions, label_map, read_predictions
from esam_rt.evaluation.regions import (
    PhotoRegions,
    RegionScores,
    compare,
    contingency,
    covering,
    rand_index,
    variation_of_information,
)
from esam_rt.evaluation.truth import read_truth

__all__ = [
    "AveragePrecision",
    "Estimate",
    "MaskTruth",
    "PhotoMatches",
    "PhotoRegions",
    "Predictions",
    "RegionScores",
    "RegionTruth",
    "TruePhoto",
    "average_precision",
    "boundary",
    "compare",
    "contingency",
    "covering",
    "differences",
    "estimates",
    "label_map",
    "match_boundaries",
    "match_photo",
    "rand_index",
    "read_predictions",
    "read_truth",
    "resamples",
    "variation_of_information",
]
