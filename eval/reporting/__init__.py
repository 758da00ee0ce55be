"""The parts that all measurements share: options, opening a model, reports, plots, memory used."""
