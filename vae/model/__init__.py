"""x -> q(z|x), z -> p(x|z): networks, likelihoods, the VAE, and its checkpoint on disk."""
