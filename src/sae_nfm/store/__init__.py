"""Artifacts by fingerprint, whole files, and the processes that share a study."""
