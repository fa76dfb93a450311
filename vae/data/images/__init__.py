"""Untrusted bytes in, levels out."""
