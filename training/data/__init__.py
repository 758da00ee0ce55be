"""Building training data: everything becomes a file of documents with questions."""
