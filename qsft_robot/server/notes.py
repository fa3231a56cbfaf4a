"""Notes on odd requests of a client: counted each time, said once a connection."""

from __future__ import annotations

import logging

from qsft_robot.policy.description import PolicyDescription
from qsft_robot.policy.folder import PolicySpec
from qsft_robot.policy.logged_ranges import LoggedRanges
from qsft_robot.server.metrics import ServerMetrics
from qsft_robot.types import Observation

log = logging.getLogger("qsft_robot.server.server")


class ClientNotes:
    """The notes of one connection."""

    def __init__(
        self,
        description: PolicyDescription,
        spec: PolicySpec,
        metrics: ServerMetrics,
        *,
        refuse_far: bool,
    ) -> None:
        self._ranges, self._spec, self._metrics = LoggedRanges.of(description), spec, metrics
        self._refuse_far = refuse_far
        self._said: set[str] = set()

    def look(self, observation: Observation) -> list[str]:
        """The notes that this request is the first to earn; ValueError at readings far from the
        logs where they are refused."""
        notes: list[str] = []
        if not self._spec.knows(observation.instruction):
            self._metrics.unknown_instructions += 1
            shown = repr(observation.instruction[:80])
            self._note(notes, "instruction", f"the policy was not trained on {shown}")
        for reading in self._ranges.far(observation.state, list(self._spec.state)):
            self._metrics.far_readings[reading.key] += 1
            if self._refuse_far:
                raise ValueError(f"{reading}; check unit and order of its numbers")
            self._note(notes, reading.key, f"{reading}, far from that")
        return notes

    def _note(self, notes: list[str], what: str, text: str) -> None:
        if what not in self._said:
            self._said.add(what)
            log.warning("a client's request: %s", text)
            notes.append(text)
