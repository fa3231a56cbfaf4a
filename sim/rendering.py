"""Off-screen images of MuJoCo scenes through one GL context a process, shared by all its scenes."""

from __future__ import annotations

import atexit
import math
import os
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import mujoco
import numpy as np

_GL_HELP = (
    "Set MUJOCO_GL=egl and install libegl1 (Debian, Ubuntu: `apt-get install libegl1 libgl1`); on "
    "an NVIDIA machine its driver's EGL vendor file /usr/share/glvnd/egl_vendor.d/10_nvidia.json "
    "must be there too. MUJOCO_GL=osmesa (package libosmesa6) is the slow way without EGL. State "
    "observations (cameras=()) need no GL at all."
)

_gl_context: Any = None
_renderers: dict[tuple[int, int, int, int], _Renderer] = {}
_canvases: dict[tuple[int, int], _Canvas] = {}

# An empty world: light, and an image buffer whose edges are smoothed.
_CANVAS = """
<mujoco>
  <visual>
    <global offwidth="{width}" offheight="{height}"/>
    <quality offsamples="4" numslices="14" numstacks="7" numquads="1"/>
    <headlight ambient=".42 .42 .42" diffuse=".38 .38 .38" specular="0 0 0"/>
    <map znear=".02" zfar="40"/>
  </visual>
  <statistic center="0 0 0" extent="1"/>
  <worldbody>
    <light pos="0 0 4" dir=".35 .5 -1" directional="true" diffuse=".38 .38 .36" specular="0 0 0"
           castshadow="false"/>
  </worldbody>
</mujoco>
"""


def gl_platform() -> str:
    """The off-screen GL platform in force: MUJOCO_GL, or egl on a Linux machine with no display."""
    chosen = os.environ.get("MUJOCO_GL", "").lower()
    if chosen:
        return chosen
    headless = sys.platform.startswith("linux") and not os.environ.get("DISPLAY")
    return "egl" if headless else "glfw"


def _start_gl() -> None:
    """Make the process's GL context current, creating it first; RuntimeError says what to set."""
    global _gl_context  # noqa: PLW0603 (one context a process is the point of this module)
    if _gl_context is not None:
        _gl_context.make_current()
        return
    platform = gl_platform()
    # Mesa's software rasteriser starts a thread a core; for images this small they cost more
    # than they bring (600 against 500 steps a CPU second), most of all beside other workers.
    os.environ.setdefault("LP_NUM_THREADS", "0")
    try:
        if platform == "egl":
            os.environ["MUJOCO_GL"] = "egl"  # MuJoCo's own loader reads it
            from mujoco.egl import GLContext
        elif platform == "osmesa":
            from mujoco.osmesa import GLContext
        elif platform == "glfw":
            from mujoco.glfw import GLContext
        else:
            raise ValueError(f"MUJOCO_GL={platform} names no off-screen GL platform")
        context = GLContext(64, 64)
        context.make_current()
    except Exception as error:
        raise RuntimeError(
            f"No OpenGL context for images (MUJOCO_GL={platform}: {type(error).__name__}: "
            f"{error}). {_GL_HELP}"
        ) from error
    if _gl_context is None:
        # After MuJoCo's own exit hook was registered, so that this one runs before it.
        atexit.unregister(close_rendering)
        atexit.register(close_rendering)
    _gl_context = context


class _Renderer:
    """One model's buffer of a row of images, so that all cameras are read back at once."""

    def __init__(self, model: mujoco.MjModel, size: tuple[int, int], count: int) -> None:
        _start_gl()
        height, width = size
        model.vis.global_.offheight, model.vis.global_.offwidth = height, width * count
        try:
            self.context = mujoco.MjrContext(model, mujoco.mjtFontScale.mjFONTSCALE_50)
        except mujoco.FatalError as error:
            raise RuntimeError(f"OpenGL refused an image buffer ({error}). {_GL_HELP}") from error
        self.model = model  # held, so that its id in the cache stays its own
        self.scene = mujoco.MjvScene(model, maxgeom=200)
        self.scene.flags[mujoco.mjtRndFlag.mjRND_REFLECTION] = False
        self.option = mujoco.MjvOption()
        self.camera = mujoco.MjvCamera()
        self.camera.type = mujoco.mjtCamera.mjCAMERA_FIXED
        self.parts = [mujoco.MjrRect(i * width, 0, width, height) for i in range(count)]
        self.whole = mujoco.MjrRect(0, 0, count * width, height)
        self.pixels = np.zeros((height, count * width, 3), np.uint8)

    def images(
        self, data: mujoco.MjData, camera_ids: Sequence[int], shadows: bool
    ) -> list[np.ndarray]:
        _start_gl()
        mujoco.mjr_setBuffer(mujoco.mjtFramebuffer.mjFB_OFFSCREEN, self.context)
        self.scene.flags[mujoco.mjtRndFlag.mjRND_SHADOW] = shadows
        everything = mujoco.mjtCatBit.mjCAT_ALL
        for camera_id, part in zip(camera_ids, self.parts, strict=True):
            self.camera.fixedcamid = camera_id
            mujoco.mjv_updateScene(
                self.model, data, self.option, None, self.camera, everything, self.scene
            )
            mujoco.mjr_render(part, self.scene, self.context)
        mujoco.mjr_readPixels(self.pixels, None, self.whole, self.context)
        return [self.pixels[::-1, part.left : part.left + part.width].copy() for part in self.parts]


def render_images(
    model: mujoco.MjModel,
    data: mujoco.MjData,
    cameras: Sequence[str],
    size: tuple[int, int],
    *,
    shadows: bool = False,
) -> list[np.ndarray]:
    """Draw each named camera at `size` (height, width): uint8 [height, width, 3], row 0 at the top.

    No camera needs no GL. Raises RuntimeError, saying what to set, when the machine gives no GL
    context, and ValueError, listing the scene's cameras, for an unknown one.
    """
    if not cameras:
        return []
    camera_ids = []
    for camera in cameras:
        camera_ids.append(mujoco.mj_name2id(model, mujoco.mjtObj.mjOBJ_CAMERA, camera))
        if camera_ids[-1] < 0:
            names = [model.camera(i).name for i in range(model.ncam)]
            raise ValueError(f"No camera {camera!r} in this scene; there are: {', '.join(names)}.")
    key = (id(model), *size, len(cameras))
    if key not in _renderers:
        _renderers[key] = _Renderer(model, size, len(cameras))
    return _renderers[key].images(data, camera_ids, shadows)


@dataclass(frozen=True, eq=False)
class Camera:
    """An eye [3] (meters, z up) that looks along azimuth (0 is x, pi / 2 is y) and elevation, in
    radians, with a vertical field of view in degrees."""

    eye: np.ndarray
    azimuth: float
    elevation: float
    field: float

    @cached_property
    def turn(self) -> np.ndarray:
        """[3, 3]: right, forward and up of the image as columns."""
        level, up = math.cos(self.elevation), math.sin(self.elevation)
        east, north = math.cos(self.azimuth), math.sin(self.azimuth)
        return np.array(
            [
                [north, level * east, -up * east],
                [-east, level * north, -up * north],
                [0.0, up, level],
            ]
        )

    @property
    def forward(self) -> np.ndarray:
        """The direction of sight, [3]."""
        return self.turn[:, 1]


class _Canvas:
    """An image buffer for primitives that belong to no model."""

    def __init__(self, size: tuple[int, int]) -> None:
        _start_gl()
        height, width = size
        self.model = mujoco.MjModel.from_xml_string(_CANVAS.format(width=width, height=height))
        self.data = mujoco.MjData(self.model)
        mujoco.mj_forward(self.model, self.data)
        try:
            self.context = mujoco.MjrContext(self.model, mujoco.mjtFontScale.mjFONTSCALE_50)
        except mujoco.FatalError as error:
            raise RuntimeError(f"OpenGL refused an image buffer ({error}). {_GL_HELP}") from error
        self.scene = mujoco.MjvScene(self.model, maxgeom=2000)
        for flag in (mujoco.mjtRndFlag.mjRND_REFLECTION, mujoco.mjtRndFlag.mjRND_SHADOW):
            self.scene.flags[flag] = False
        self.option, self.camera = mujoco.MjvOption(), mujoco.MjvCamera()
        self.camera.type = mujoco.mjtCamera.mjCAMERA_FREE
        self.camera.distance = 1.0
        self.whole = mujoco.MjrRect(0, 0, width, height)
        self.pixels = np.zeros((height, width, 3), np.uint8)

    def look(self, camera: Camera) -> None:
        """Empty the scene and put the camera into it."""
        self.model.vis.global_.fovy = camera.field
        self.camera.lookat[:] = camera.eye + camera.forward
        self.camera.azimuth = math.degrees(camera.azimuth)
        self.camera.elevation = math.degrees(camera.elevation)
        mujoco.mjv_updateScene(
            self.model,
            self.data,
            self.option,
            None,
            self.camera,
            mujoco.mjtCatBit.mjCAT_ALL,
            self.scene,
        )


def render_primitives(
    kinds: np.ndarray,
    sizes: np.ndarray,
    centers: np.ndarray,
    turns: np.ndarray,
    colors: np.ndarray,
    glow: np.ndarray,
    camera: Camera,
    size: tuple[int, int],
) -> np.ndarray:
    """Draw n primitives without a model: uint8 [height, width, 3], row 0 at the top.

    kinds [n] MuJoCo's geom types, sizes [n, 3] half extents along their own axes (a capsule's
    without its caps), centers [n, 3], turns [n, 3, 3], colors [n, 4] RGBA and glow [n] in [0, 1].
    Raises RuntimeError when the machine gives no GL context, and ValueError for more primitives
    than a scene holds.
    """
    if size not in _canvases:
        _canvases[size] = _Canvas(size)
    canvas = _canvases[size]
    scene = canvas.scene
    if len(kinds) > scene.maxgeom:
        raise ValueError(f"{len(kinds)} primitives in one view; a scene holds {scene.maxgeom}.")
    _start_gl()
    mujoco.mjr_setBuffer(mujoco.mjtFramebuffer.mjFB_OFFSCREEN, canvas.context)
    canvas.look(camera)
    flat, rgba, geoms = turns.reshape(-1, 9), colors.astype(np.float32), scene.geoms
    clear = rgba[:, 3] < 1
    # MuJoCo's own sizes of these two are radius and half length.
    long = (kinds == mujoco.mjtGeom.mjGEOM_CYLINDER) | (kinds == mujoco.mjtGeom.mjGEOM_CAPSULE)
    sizes = np.where(long[:, None], sizes[:, [0, 2, 2]], sizes)
    for i in range(len(kinds)):
        geom = geoms[i]
        mujoco.mjv_initGeom(geom, int(kinds[i]), sizes[i], centers[i], flat[i], rgba[i])
        geom.specular = 0.0
        if glow[i]:
            geom.emission = float(glow[i])
        if clear[i]:
            geom.transparent = 1
    scene.ngeom = len(kinds)
    mujoco.mjr_render(canvas.whole, scene, canvas.context)
    mujoco.mjr_readPixels(canvas.pixels, None, canvas.whole, canvas.context)
    return canvas.pixels[::-1].copy()


def close_rendering() -> None:
    """Free every image buffer and the GL context; the next image makes new ones."""
    global _gl_context  # noqa: PLW0603
    if _gl_context is None:
        return
    _gl_context.make_current()
    for renderer in _renderers.values():
        renderer.context.free()
    _renderers.clear()
    for canvas in _canvases.values():
        canvas.context.free()
    _canvases.clear()
    _gl_context.free()
    _gl_context = None
