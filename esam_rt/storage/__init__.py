"""Files and folders: atomic writes, hashes, locks, permissions, manifests. This wing knows nothing of SAM."""
