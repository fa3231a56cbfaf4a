"""Export a trained policy as a folder for a robot: the same as `qsft-robot export`."""

from __future__ import annotations

import sys

from qsft_robot.cli import main

if __name__ == "__main__":
    sys.exit(main(["export", *sys.argv[1:]]))
