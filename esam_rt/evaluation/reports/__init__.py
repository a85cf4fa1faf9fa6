"""Reports and plots of an evaluation."""
