"""The data of a stage: files, formats and readers, task rows, corpora, batches."""
