"""Training: from a task to a harmonizer and its measures."""
