"""Pixels in: data sets, procedural sprites, and untrusted image bytes. NumPy only, no torch."""
