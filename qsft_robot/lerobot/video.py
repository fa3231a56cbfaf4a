"""Camera frames of a LeRobot data set: MP4 files that hold many episodes, or PNG images."""

from __future__ import annotations

import os
from collections.abc import Iterator, Mapping, Sequence
from fractions import Fraction
from io import BytesIO
from pathlib import Path
from typing import Any

import numpy as np

from qsft_robot.lerobot.format import FILES_OF_A_CHUNK, VIDEO_MB, VIDEOS

# Codec -> constant rate factor. LeRobot's own recordings are libsvtav1 at 30; small images lose
# less with h264 at 18.
CODECS = {"h264": 18, "libsvtav1": 30}
# What is read: a playlist under a video's name would have FFmpeg open other files, or addresses.
_VIDEO = {"format_whitelist": "mov,mp4,matroska,webm,avi", "protocol_whitelist": "file"}
_IMAGE = {"format_whitelist": "png_pipe,jpeg_pipe", "protocol_whitelist": "file"}
# Every other frame can be decoded by itself, so that reading at random is fast (as LeRobot has it).
_KEYFRAME_EVERY = "2"


def read_frames(
    path: Path,
    start_s: float,
    fps: float,
    count: int,
    size: tuple[int, int] | None,
    episode: int,
) -> np.ndarray:
    """The `count` frames of one episode that begins at `start_s` of an MP4: uint8 [count, h, w, 3].

    `size` (height, width) resizes. ValueError when the file has no video or frames are missing.
    """
    frames: np.ndarray | None = None
    for number, pixels in enumerate(iter_video(path, start_s, fps, count, size, episode)):
        frames = np.empty((count, *pixels.shape), np.uint8) if frames is None else frames
        frames[number] = pixels
    if frames is None:
        raise ValueError(f"{path}: episode {episode} has no frames.")
    return frames


def iter_video(
    path: Path,
    start_s: float,
    fps: float,
    count: int,
    size: tuple[int, int] | None,
    episode: int,
) -> Iterator[np.ndarray]:
    """The frames of `read_frames` one by one; its errors."""
    import av

    following = 0
    try:
        with av.open(str(path), mode="r", options=_VIDEO) as container:
            if not container.streams.video:
                raise ValueError(f"{path}: holds no video.")
            stream = container.streams.video[0]
            base = stream.time_base or Fraction(1, 1)
            container.seek(int(start_s / base), stream=stream, backward=True)
            for frame in container.decode(stream):
                if frame.pts is None:
                    continue
                number = round((float(frame.pts * base) - start_s) * fps)
                # Decoded frames come in the order of their times: one that is passed over is lost.
                if number > following or following >= count:
                    break
                if number == following:
                    yield _pixels(frame, size)
                    following += 1
    except av.error.FFmpegError as error:
        raise ValueError(
            f"{path}: can't be decoded ({' '.join(str(error).split())}); download it again."
        ) from error
    if following < count:
        raise ValueError(
            f"{path}: {count - following} of the {count} frames of episode {episode} are not "
            f"there or out of place, the first at {start_s + following / fps:.3f} s. The video and "
            "the data don't belong together, or the file is cut; download it again."
        )


def _pixels(frame: Any, size: tuple[int, int] | None) -> np.ndarray:
    if size is None or (frame.height, frame.width) == size:
        return frame.to_ndarray(format="rgb24")
    return frame.to_ndarray(format="rgb24", width=size[1], height=size[0], interpolation="AREA")


def decode_images(images: Sequence[bytes], size: tuple[int, int] | None, where: str) -> np.ndarray:
    """Images that stand in the data itself (PNG or JPEG bytes): uint8 [t, h, w, 3]."""
    return np.stack([*iter_images(images, size, where)])


def iter_images(
    images: Sequence[bytes], size: tuple[int, int] | None, where: str
) -> Iterator[np.ndarray]:
    """The images of `decode_images` one by one."""
    import av

    for i, image in enumerate(images):
        if not image:
            raise ValueError(f"{where}: frame {i} has no image in it.")
        try:
            with av.open(BytesIO(image), mode="r", options=_IMAGE) as container:
                pixels = _pixels(next(container.decode(video=0)), size)
        except (av.error.FFmpegError, LookupError, StopIteration, TypeError) as error:
            reason = " ".join(str(error).split())
            raise ValueError(f"{where}: frame {i} is no readable image ({reason}).") from error
        yield pixels


def encode_png(frame: np.ndarray) -> bytes:
    """PNG bytes of uint8 [h, w, 3]."""
    import av

    codec = av.CodecContext.create("png", "w")
    codec.height, codec.width = frame.shape[:2]
    codec.pix_fmt, codec.time_base = "rgb24", Fraction(1, 1)
    picture = av.VideoFrame.from_ndarray(np.ascontiguousarray(frame), format="rgb24")
    picture.pts = 0
    return b"".join(bytes(p) for p in [*codec.encode(picture), *codec.encode(None)])


class CameraVideos:
    """Writes one camera's MP4 files, episode after episode; a context manager."""

    def __init__(
        self, folder: Path, feature: str, fps: float, codec: str, crf: int | None = None
    ) -> None:
        self._folder, self._feature, self._codec = folder, feature, codec
        self._fps = Fraction(fps).limit_denominator(1000)
        self._crf = CODECS[codec] if crf is None else crf
        self._number = -1
        self._container: Any = None
        self._stream: Any = None
        self._frames = self._bytes = 0
        self._size: tuple[int, int] | None = None

    def append(self, frames: np.ndarray) -> dict[str, Any]:
        """Encode one episode, uint8 [t, h, w, 3]; return where it stands, as LeRobot tells it.

        ValueError on images of another size, and on odd sizes where the codec takes none.
        """
        import av

        height, width = frames.shape[1:3]
        self._size = self._size or (height, width)
        if (height, width) != self._size:
            raise ValueError(
                f"{self._feature}: images of {height}x{width} after images of "
                f"{self._size[0]}x{self._size[1]}."
            )
        if self._container is None or self._bytes >= VIDEO_MB << 20:
            self._open(height, width)
        first = self._frames
        for i, pixels in enumerate(frames):
            frame = av.VideoFrame.from_ndarray(np.ascontiguousarray(pixels), format="rgb24")
            frame.pts, frame.time_base = self._frames, 1 / self._fps
            if i == 0:
                frame.pict_type = av.video.frame.PictureType.I
            self._write(self._stream.encode(frame))
            self._frames += 1
        at = f"videos/{self._feature}/"
        return {
            f"{at}chunk_index": self._number // FILES_OF_A_CHUNK,
            f"{at}file_index": self._number % FILES_OF_A_CHUNK,
            f"{at}from_timestamp": float(first / self._fps),
            f"{at}to_timestamp": float(self._frames / self._fps),
        }

    def info(self) -> dict[str, Any]:
        """The video's entry of info.json."""
        height, width = self._size or (0, 0)
        return {
            "video.height": height,
            "video.width": width,
            "video.codec": "av1" if self._codec == "libsvtav1" else self._codec,
            "video.pix_fmt": _pixel_format(self._codec, height, width),
            "video.is_depth_map": False,
            "video.fps": int(self._fps) if self._fps.denominator == 1 else float(self._fps),
            "video.channels": 3,
            "has_audio": False,
        }

    def close(self) -> None:
        """Finish the file that is open."""
        if self._container is not None:
            self._write(self._stream.encode(None))
            self._container.close()
            self._container = None

    def __enter__(self) -> CameraVideos:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def _open(self, height: int, width: int) -> None:
        import av

        self.close()
        self._number += 1
        self._frames = self._bytes = 0
        path = self._folder / VIDEOS.format(
            video_key=self._feature,
            chunk_index=self._number // FILES_OF_A_CHUNK,
            file_index=self._number % FILES_OF_A_CHUNK,
        )
        path.parent.mkdir(parents=True, exist_ok=True)
        self._container = av.open(str(path), "w")
        self._stream = self._container.add_stream(
            "libx264" if self._codec == "h264" else self._codec,
            rate=self._fps,
            options=self._options(),
        )
        self._stream.height, self._stream.width = height, width
        self._stream.pix_fmt = _pixel_format(self._codec, height, width)
        self._stream.time_base = 1 / self._fps

    def _options(self) -> Mapping[str, str]:
        options = {"g": _KEYFRAME_EVERY, "crf": str(self._crf)}
        if self._codec == "libsvtav1":
            os.environ.setdefault("SVT_LOG", "1")  # else it writes its settings for each file
            return {**options, "preset": "12"}
        # Without frames that look ahead, the first picture is at 0 s.
        return {**options, "bf": "0"}

    def _write(self, packets: Sequence[Any]) -> None:
        for packet in packets:
            self._bytes += packet.size
            self._container.mux(packet)


def _pixel_format(codec: str, height: int, width: int) -> str:
    """The pixels of the video. Color at half size, which libsvtav1 is bound to, is most of what
    small images lose: 64x64 frames of the tabletop come back 3.6 gray levels off, else 1.5."""
    if codec == "h264":
        return "yuv444p"
    if height % 2 or width % 2:
        raise ValueError(f"{codec} takes even image sizes, got {height}x{width}; use h264 or png.")
    return "yuv420p"
