"""Camera images of a MuJoCo model, through one GL context a process."""

from __future__ import annotations

import atexit
import weakref
from typing import Any

import mujoco
import numpy as np

from sim.rendering import gl_platform
from sim.robosuite.args import GL_HELP

_HIDDEN_GROUP = 5
_context: Any = None
_renderers: weakref.WeakSet[CameraRenderer] = weakref.WeakSet()


class CameraRenderer:
    """Renders the cameras of one model; `close` when done.

    quality "fast" turns shadows, reflections and multisampling off, and leaves out meshes outside
    the camera's view, which changes no pixel; "full" renders as robosuite does.
    Raises RuntimeError, saying what to set, when there is no GL context.
    """

    def __init__(self, model: Any, data: Any, quality: str, largest: tuple[int, int]) -> None:
        self._model, self._data = model, data
        self._fast = quality == "fast"
        if self._fast:
            model.vis.quality.offsamples = 0
            model.light_castshadow[:] = 0
            model.mat_reflectance[:] = 0
        model.vis.global_.offheight, model.vis.global_.offwidth = largest
        _make_current()
        try:
            self._gl = mujoco.MjrContext(model, mujoco.mjtFontScale.mjFONTSCALE_100)
        except mujoco.FatalError as error:
            raise RuntimeError(f"OpenGL refused an image buffer ({error}). {GL_HELP}") from error
        mujoco.mjr_setBuffer(mujoco.mjtFramebuffer.mjFB_OFFSCREEN, self._gl)
        self._scene = mujoco.MjvScene(model, maxgeom=2000)
        self._options = mujoco.MjvOption()
        # robosuite's groups: 0 collision shapes, 1 visual ones
        self._options.geomgroup[0], self._options.geomgroup[1] = 0, 1
        self._perturbation = mujoco.MjvPerturb()
        self._camera = mujoco.MjvCamera()
        self._camera.type = mujoco.mjtCamera.mjCAMERA_FIXED
        meshes = (model.geom_type == mujoco.mjtGeom.mjGEOM_MESH) & (model.geom_group == 1)
        self._meshes = np.flatnonzero(meshes)
        _renderers.add(self)

    def render(self, camera: str, height: int, width: int) -> np.ndarray:
        """The image of `camera` as things stand, uint8 [height, width, 3], row 0 at the top."""
        _make_current()
        number = mujoco.mj_name2id(self._model, mujoco.mjtObj.mjOBJ_CAMERA, camera)
        self._camera.fixedcamid = number
        hidden = self._outside(number, width / height) if self._fast else self._meshes[:0]
        self._model.geom_group[hidden] = _HIDDEN_GROUP
        mujoco.mjv_updateScene(
            self._model, self._data, self._options, self._perturbation, self._camera,
            mujoco.mjtCatBit.mjCAT_ALL, self._scene,
        )  # fmt: skip
        self._model.geom_group[hidden] = 1
        viewport = mujoco.MjrRect(0, 0, width, height)
        mujoco.mjr_render(viewport, self._scene, self._gl)
        image = np.empty((height, width, 3), np.uint8)
        mujoco.mjr_readPixels(image, None, viewport, self._gl)
        return np.ascontiguousarray(image[::-1])

    def _outside(self, camera: int, aspect: float) -> np.ndarray:
        """The mesh geoms whose bounding box lies wholly outside the camera's view pyramid."""
        model, data, meshes = self._model, self._data, self._meshes
        y = np.tan(np.deg2rad(model.cam_fovy[camera]) / 2)
        x = y * aspect
        # outward normals of the pyramid's sides and of the camera's own plane (it looks along -z)
        planes = np.array([[1, 0, x], [-1, 0, x], [0, 1, y], [0, -1, y], [0, 0, 1.0]])
        planes = data.cam_xmat[camera].reshape(3, 3) @ planes.T
        rotations = data.geom_xmat[meshes].reshape(-1, 3, 3)
        boxes = model.geom_aabb[meshes]
        centers = data.geom_xpos[meshes] + (rotations @ boxes[:, :3, None])[:, :, 0]
        reach = (boxes[:, None, 3:] @ np.abs(rotations.transpose(0, 2, 1) @ planes))[:, 0]
        apart = (centers - data.cam_xpos[camera]) @ planes - reach
        return meshes[(apart > 1e-4).any(axis=1)]

    def close(self) -> None:
        """Free the GL buffers, and the process's GL context with its last renderer."""
        if self._gl is not None:
            _make_current()
            self._gl.free()
            self._gl = None
            _renderers.discard(self)
            if not _renderers:
                _free_context()


def _make_current() -> None:
    global _context  # noqa: PLW0603 - one GL context a process is the point
    try:
        if _context is None:
            _context = _context_class()(64, 64)
            # registered after the GL library's own handlers, so that it runs before them
            atexit.register(_close_all)
        _context.make_current()
    except Exception as error:  # each backend has its own errors, down to AttributeError
        _context = None
        raise RuntimeError(
            f"No OpenGL context for images ({type(error).__name__}: {error}). {GL_HELP}"
        ) from error


def _context_class() -> Any:
    if gl_platform() == "egl":
        from mujoco.egl import GLContext

        return GLContext
    return mujoco.GLContext


def _free_context() -> None:
    global _context  # noqa: PLW0603
    if _context is not None:
        _context.free()
        _context = None


def _close_all() -> None:
    for renderer in list(_renderers):
        renderer.close()
    _free_context()
