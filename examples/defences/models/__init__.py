"""A defence a file: see `examples.defences.defence.Defence` for what each must have."""
