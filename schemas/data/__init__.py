"""What a stage reads: tasks, corpora, augmentation, data cards. Nothing is opened here."""
