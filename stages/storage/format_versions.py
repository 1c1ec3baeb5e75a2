"""Versions of everything that is kept under a digest; the docstring of stages/identity.py says which one to raise.

Raising one makes the results of that part again; what was kept under the old version stays in the store until
`distill gc` removes it.
"""

NUMERICS_VERSION = 4
"""Training: the same config, models and data give another loss curve. Every stage is trained again."""
EVALUATION_VERSION = 9
"""Scores: the same checkpoint gets another score. Every checkpoint is judged again."""
EXPORT_VERSION = 1
"""Exports in the cache: the same checkpoint gives other files."""
CACHE_VERSION = 2
"""Teacher cache: the same teacher and rows are kept in another layout."""
CARD_VERSION = 2
"""Data card: the same texts give another card."""
AUGMENTATION_VERSION = 2
"""Augmentation: the same rows, teacher and settings give other copies."""
CORPUS_VERSION = 3
"""Corpus cleaning: the same sources give other rows."""
SENTENCES_VERSION = 2
"""Sentence splitting: the same text gives other sentences."""
CORPUS_TOKENS_VERSION = 1
"""Corpus sequences: the same rows and tokenizer give other sequences."""
TOKENS_VERSION = 3
"""Task sequences: the same rows and tokenizer give other sequences."""
ROWS_VERSION = 2
"""Task rows: the same files give other rows or labels."""
READING_VERSION = 2
"""File formats: the same file gives other rows or remarks."""
SAMPLE_VERSION = 1
"""Hub samples: the same commit, limits and seed give other rows."""
EXTRACTION_VERSION = 2
"""Docstrings: the same packages give other paragraphs or functions."""
TASK_VERSION = 2
"""Docstring task: the same paragraphs give other rows."""
