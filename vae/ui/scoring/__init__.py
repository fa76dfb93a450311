"""The screen Score images."""
