"""General corpora: cleaned, deduplicated, segmented, tokenized."""
