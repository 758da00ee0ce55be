"""`python -m eval.babilong`: see `eval/babilong/command.py`."""

from eval.babilong.command import app

if __name__ == "__main__":
    app()
