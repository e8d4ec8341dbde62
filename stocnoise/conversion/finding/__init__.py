"""Looking at a model: where it calls activations, in what order, on which channels. Nothing is changed."""
