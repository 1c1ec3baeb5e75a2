"""What a run leaves behind: manifests of checkpoints, and reports."""
