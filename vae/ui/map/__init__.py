"""The screen Latent map."""
