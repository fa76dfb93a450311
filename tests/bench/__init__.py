"""Benchmarks, run by ``make bench NAME=...``: one file each, and what those in a browser share."""
