"""Programs that print figures. Speeds are compared within one run: machines are noisy."""
