"""What the commands that train one head of a memory share."""
