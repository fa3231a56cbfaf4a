"""Pretrains a small VLM on captions of tabletop scenes: simulator in, Hugging Face folder out."""

from __future__ import annotations

import tyro

from qsft_robot.captions.pretrain import PretrainConfig, pretrain

if __name__ == "__main__":
    pretrain(tyro.cli(PretrainConfig, description=__doc__))
