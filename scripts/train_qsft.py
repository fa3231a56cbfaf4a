"""Train a policy on HDF5 logs: the same as `qsft-robot train`."""

from __future__ import annotations

import sys

from qsft_robot.cli import main

if __name__ == "__main__":
    sys.exit(main(["train", *sys.argv[1:]]))
