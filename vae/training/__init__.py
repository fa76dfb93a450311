"""Fits a VAE and commits it as a checkpoint."""
