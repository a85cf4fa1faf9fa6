"""From the name of a model to its engines: caches, downloads, budgets, checks."""
