"""Unit tests of `pipeline.init`."""
