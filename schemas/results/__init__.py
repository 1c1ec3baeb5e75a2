"""Results of a run: manifests of checkpoints, and reports."""
