"""Answers as AI2-THOR's controller does, without its renderer: copied to ai2thor/controller.py.

Only what alfworld's own AlfredThorEnv asks of it: a room with a receptacle for each pose of the
floor plan, objects in them, teleporting, opening, taking and putting. The file that THOR_STAND_IN
names may hold <action>:<how>, which makes an action hang, die or fail.
"""

from __future__ import annotations

import os
import time
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np

RGB = (200, 120, 40)  # what its frames show, red first


class Controller:
    def __init__(self, quality: str = "") -> None:
        self.last_event: Any = None

    def start(
        self, x_display: object = None, player_screen_height: int = 0, player_screen_width: int = 0
    ) -> None:
        self._misbehave("start")
        self.size = (player_screen_height, player_screen_width)

    def stop(self) -> None:
        pass

    def reset(self, scene: str) -> Any:
        import json

        import alfworld.gen

        folder = alfworld.gen.__path__[0]
        with open(f"{folder}/layouts/{scene}-openable.json") as file:
            self.poses = json.load(file)
        self.inside: dict[str, str] = {}
        self.opened: set[str] = set()
        self.held: str | None = None
        self.pose: list[float] = []
        return self._event(True)

    def step(self, action: dict[str, Any]) -> Any:
        name = action["action"]
        self._misbehave(name)
        return self._event(getattr(self, f"_{name}", lambda action: True)(action))

    def _misbehave(self, action: str) -> None:
        wanted, _, how = Path(os.environ["THOR_STAND_IN"]).read_text().partition(":")
        if wanted == action:
            if how == "hang":
                time.sleep(600)
            if how == "die":
                os._exit(3)
            raise RuntimeError("Unity said no")

    def _SetObjectPoses(self, action: dict[str, Any]) -> bool:
        for pose in action["objectPoses"]:
            kind, receptacle = pose["objectName"].split("_", 1)
            self.inside[f"{kind}|+00.00|+01.00|+00.00"] = receptacle
        return True

    def _TeleportFull(self, action: dict[str, Any]) -> bool:
        self.pose = [action["x"], action["z"], action["rotation"], action["horizon"]]
        return True

    def _PickupObject(self, action: dict[str, Any]) -> bool:
        if self.held is not None:
            return False
        self.held = action["objectId"]
        del self.inside[self.held]
        return True

    def _PutObject(self, action: dict[str, Any]) -> bool:
        self.inside[action["objectId"]] = action["receptacleObjectId"]
        self.held = None
        return True

    def _OpenObject(self, action: dict[str, Any]) -> bool:
        self.opened.add(action["objectId"])
        return True

    def _CloseObject(self, action: dict[str, Any]) -> bool:
        self.opened.discard(action["objectId"])
        return True

    def _event(self, success: object) -> Any:
        seen = [name for name, pose in self.poses.items() if list(pose) == self.pose]
        shown = [
            thing
            for thing, receptacle in self.inside.items()
            if receptacle in seen
            and (receptacle in self.opened or not receptacle.startswith(("Cabinet", "Fridge")))
        ]
        segments = np.zeros((*self.size, 3), np.uint8)
        colors = {}
        for i, name in enumerate([*seen, *shown]):
            colors[i + 1, 0, 0] = name
            segments[i] = (i + 1, 0, 0)
        frame = np.zeros((*self.size, 3), np.uint8)
        frame[:] = RGB
        names = {*self.poses, *self.inside, *([self.held] if self.held else [])}
        self.last_event = SimpleNamespace(
            frame=frame,
            instance_segmentation_frame=segments,
            color_to_object_id=colors,
            metadata={
                "agent": {"position": {"x": 0.0, "y": 0.9, "z": 0.0}},
                "lastActionSuccess": bool(success),
                "errorMessage": "" if success else "no",
                "inventoryObjects": [{"objectId": self.held}] if self.held else [],
                "objects": [self._told(name, name in seen or name in shown) for name in names],
            },
        )
        return self.last_event

    def _told(self, name: str, visible: bool) -> dict[str, Any]:
        parts = name.split("|")
        return {
            "objectId": name,
            "objectType": parts[4] if len(parts) > 4 else parts[0],
            "visible": visible,
            "receptacle": name in self.poses,
            "pickupable": name not in self.poses,
            "toggleable": False,
            "isToggled": False,
            "position": dict(zip("xyz", map(float, parts[1:4]), strict=True)),
            "parentReceptacles": [self.inside[name]] if name in self.inside else [],
            "receptacleObjectIds": [x for x, where in self.inside.items() if where == name],
        }
