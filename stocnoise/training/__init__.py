"""Algorithm 1: fine-tuning a student against attacks."""
