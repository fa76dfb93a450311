"""A checkpoint on disk: its files, its reference set, its name."""
