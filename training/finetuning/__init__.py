"""Parts of `python -m training.finetune`: settings, data, model, loop, measures, checkpoints."""
