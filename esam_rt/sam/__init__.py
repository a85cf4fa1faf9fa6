"""A promptable model on engines: predictor, geometry, prompts, the table of models."""
