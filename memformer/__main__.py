"""`python -m memformer`: the command line of `cli.py`."""

from memformer.cli import main

main()
