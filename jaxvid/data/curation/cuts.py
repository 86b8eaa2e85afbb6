"""Scene cuts, found while a video is decoded.

The adaptive detector of PySceneDetect compares each frame with the one before it, in HSV colours. A
frame begins a scene if this difference is large, and some times as large as those around it are.
Fades and dissolves are no cuts.
"""

import bisect
import math

import av
from scenedetect import FrameTimecode
from scenedetect.detectors import AdaptiveDetector

_AROUND = 2  # frames before and after
_WIDTH = 128  # pixels of the frames that are compared


class Cuts:
    """The cuts so far.

    Attributes:
      found: the cuts in seconds, each halfway from the last frame of a scene to the first of the
        next, so that the frame nearest to any time is on the same side of it.
      known_to: up to this time, all cuts are found.
    """

    def __init__(self, threshold: float):
        """With a lower `threshold` there are more cuts; 3 is usual, and with 0 there are none."""
        self.found: list[float] = []
        self.known_to = -math.inf if threshold else math.inf
        self._detector = AdaptiveDetector(threshold, min_scene_len=0, window_width=_AROUND)
        self._times: list[float] = []

    def see(self, frame: av.VideoFrame, time: float) -> None:
        """Compares the next frame, which is shown at `time`, with those before it."""
        if self.known_to == math.inf:
            return
        height = max(1, round(frame.height * _WIDTH / frame.width))
        small = frame.reformat(_WIDTH, height, "bgr24", interpolation="AREA").to_ndarray()
        self._times.append(time)
        number = FrameTimecode(len(self._times) - 1, fps=1.0)
        for cut in self._detector.process_frame(number, small):
            before, after = self._times[cut.frame_num - 1], self._times[cut.frame_num]
            self.found.append((before + after) / 2)
        if len(self._times) > _AROUND:
            self.known_to = self._times[-1 - _AROUND]

    def end(self) -> None:
        """There are no more frames."""
        self.known_to = math.inf

    def between(self, first: float, last: float) -> float | None:
        """The earliest cut in [first, last), if there is one."""
        at = bisect.bisect_left(self.found, first)
        cut = self.found[at] if at < len(self.found) else math.inf
        return cut if cut < last else None
