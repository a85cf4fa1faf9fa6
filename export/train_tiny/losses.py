"""The loss of one photo's prompts, and what is reported of it.

Losses are SAM's (per pixel, dice, regression of the IoU), but the three outputs are supervised as ordered levels in
place of the best of three: E-SAM needs the largest output to be an object. Plain cross-entropy stands for the focal
loss: in one short trial each, the focal loss reached an IoU of 0.1 and cross-entropy 0.2.
"""

from __future__ import annotations

from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor

from esam_rt.export.train_tiny.tiny_model import Prediction

LEVEL_WEIGHT = (1.0, 0.6, 0.4)  # object, part, sub-part
BCE_WEIGHT, DICE_WEIGHT, IOU_WEIGHT = 2.0, 1.0, 1.0
SMALL_SHARE, SMALL_WEIGHT_MAX = 0.05, 5.0  # the pixels of a mask below this share of the photo weigh more


class Losses(NamedTuple):
    """loss []. iou [3]: mean IoU of the levels where they are known. log_area [3]: mean of the natural logarithm of
    found over true area. known [3]: how many prompts have a level."""

    loss: Tensor
    iou: Tensor
    log_area: Tensor
    known: Tensor


def losses(p: Prediction, target: Tensor, valid: Tensor, known: Tensor | None = None) -> Losses:
    """Loss of the prompts of one photo.

    Args:
        p: The prediction for P prompts.
        target: [P, 3, G, G], 0 or 1.
        valid: [G, G], 1 where the photo is; the rest does not count.
        known: [P, 3], 0 for levels without truth; by default all are known.

    Returns:
        The loss, a mean over prompts, and what is reported.
    """
    logits, target = p.logits.flatten(2).float(), target.flatten(2)
    inside = valid.flatten()[None, None]
    if known is None:
        known = torch.ones_like(p.iou)
    true_area = (target * inside).sum(2)
    share = (true_area / inside.sum()).clamp(min=1e-5)
    bce = F.binary_cross_entropy_with_logits(logits, target, reduction="none")
    bce = (bce * inside).sum(2) / inside.sum() * (SMALL_SHARE / share).sqrt().clamp(1, SMALL_WEIGHT_MAX)
    prob = logits.sigmoid() * inside
    dice = 1 - (2 * (prob * target).sum(2) + 1) / (prob.sum(2) + true_area + 1)
    with torch.no_grad():
        binary = (logits > 0).float() * inside
        both, area = (binary * target).sum(2), binary.sum(2)
        iou = both / (area + true_area - both).clamp(min=1)
        log_area = (area.clamp(min=1) / true_area.clamp(min=1)).log()
        count = known.sum(0)
    weight = torch.tensor(LEVEL_WEIGHT, device=logits.device) * known
    per_level = BCE_WEIGHT * bce + DICE_WEIGHT * dice + IOU_WEIGHT * (p.iou.float() - iou).square()
    loss = (per_level * weight).sum(1).mean()
    mean_iou, mean_log_area = ((x * known).sum(0) / count.clamp(min=1) for x in (iou, log_area))
    return Losses(loss, mean_iou, mean_log_area, count)
