"""The walks of the traversals screen: one file for each way through the latent space."""
