"""Registry: versions of a scorer and the stages they pass through."""
