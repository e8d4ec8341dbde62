"""From a deterministic model to a stochastic one: find the places, then replace them."""
