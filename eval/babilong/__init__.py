"""BABILong: the command, the samples, the official prompts and the official metric."""
