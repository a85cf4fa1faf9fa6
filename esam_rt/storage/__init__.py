"""Files and folders: atomic writes, hashes, locks, permissions, manifests. Knows nothing of SAM."""
