"""How long a test waits for other processes."""

HANG = 3600.0
"""Seconds. Only there so that a hang ends; a busy machine takes many times what a quiet one does."""
