"""``python -m adaptool``."""

from adaptool.cli.main import run

if __name__ == "__main__":
    run()
