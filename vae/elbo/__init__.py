"""The numbers: per-sample ELBO terms, scores, bounds, evidence and calibration."""
