"""From YAML and `--set` to a Recipe and back, with every mistake explained where it was written."""
