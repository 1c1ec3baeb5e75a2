"""Labelled tasks: loaded, checked, encoded."""
