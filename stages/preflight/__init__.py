"""Checks and costs of a run, before anything is trained."""
