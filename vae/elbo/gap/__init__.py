"""Why the ELBO lies below log p(x): the split into approximation and amortisation."""
