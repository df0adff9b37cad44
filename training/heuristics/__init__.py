"""Sources that write themselves, from a few labels."""
