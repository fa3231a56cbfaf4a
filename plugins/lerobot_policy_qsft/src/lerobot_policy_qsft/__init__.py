"""Policies of qsft-robot in LeRobot."""

from .configuration_qsft import QsftConfig as QsftConfig
