"""Properties of text itself: sentences, scripts, fingerprints."""
