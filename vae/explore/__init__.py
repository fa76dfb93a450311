"""Walks in the latent space: traversals and lattices, decoded to images."""
