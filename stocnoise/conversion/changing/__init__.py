"""From what was found to a student: a plan, classes with rewritten methods, layers in their places, and back."""
