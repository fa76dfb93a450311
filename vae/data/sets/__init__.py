"""The data sets: images with fixed splits."""
