"""A run seen from outside: its folder, its signals, its progress, and processes of its own."""
