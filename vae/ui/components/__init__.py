"""Pieces that screens share: the plane, the film, the drawing pad, thumbnails."""
