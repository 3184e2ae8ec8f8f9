"""Run a study: python launch.py --config=configs/quickstart.py
Report on finished ones: python launch.py --report=runs/quickstart

The command `scaling`, which `pip install .` makes, is the same.
"""

from scaling.cli import cli

if __name__ == "__main__":
    cli()
