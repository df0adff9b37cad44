"""Asking again: which answers, with what evidence, what to keep, and whether it helped."""
