"""Other people's defences, each from its paper in a file of its own, under its paper's attack and `strongest`."""
