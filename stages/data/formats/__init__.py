"""File formats: CSV, CoNLL, JSON, Parquet."""
