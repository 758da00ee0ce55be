"""Training on top of memformer and eval; run from the checkout."""
