"""What every measurement shares: options, opening a model, reports, plots, and space in use."""
