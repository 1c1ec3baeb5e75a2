"""Data of a stage: tasks, corpora, augmentation, data cards. Nothing is opened here."""
