"""A promptable model on engines: predictor, geometry, prompts, the table of models."""

from esam_rt._moved import moved_names

__getattr__ = moved_names(__name__)
