"""log p(x): its bounds, its exact value where D ≤ 2, and the true posterior."""
