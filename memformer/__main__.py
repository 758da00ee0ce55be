"""`python -m memformer`: the command line of `cli/`."""

from memformer.cli import main

main()
