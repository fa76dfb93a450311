"""What a number means, and many files: rows, calibration, verdict, evaluation."""
