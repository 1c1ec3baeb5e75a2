"""Evaluation of models: losses on held-out text, linear probe, baselines, latency."""
