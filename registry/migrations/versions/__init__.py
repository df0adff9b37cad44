"""One step a module, the oldest 0001."""
