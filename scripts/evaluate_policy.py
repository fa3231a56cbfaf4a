"""Evaluate a policy closed loop in simulation: the same as `qsft-robot evaluate`."""

from __future__ import annotations

import sys

from qsft_robot.cli import main

if __name__ == "__main__":
    sys.exit(main(["evaluate", *sys.argv[1:]]))
