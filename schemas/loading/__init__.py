"""From YAML and `--set` to a Recipe, with every mistake explained where it was written."""
