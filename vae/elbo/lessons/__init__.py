"""What the teaching screens compute: reductions, losses, the derivation, the misconception."""
