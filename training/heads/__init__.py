"""Training of one head of a memory: the write gate, the erase head, the read modes."""
