"""Measuring robustness so that the figures can be believed."""
