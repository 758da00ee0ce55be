"""Checks before a command computes anything: its config, and the places that it writes to."""
