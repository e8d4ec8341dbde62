"""Attacks on stochastic (and deterministic) classifiers."""
