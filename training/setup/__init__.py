"""Before a command computes anything: its config and the places it writes to."""
