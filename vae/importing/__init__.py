"""Models that were trained elsewhere: read once, by an explicit command, and kept as data."""
