"""Training of the peers that memformer is compared with, on the same data."""
