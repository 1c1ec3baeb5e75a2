"""Measurements of benchmarks as JSON in docs/evidence/, and the tables of README.md and docs/results.md from them."""
