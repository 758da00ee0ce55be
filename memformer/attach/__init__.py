"""How a memory is joined to a decoder: where to reach it, what is added, and how it is started."""
