"""Decodes the frames of a video that are shown at certain times, and few others.

Packets are read first: their time stamps say which frames are wanted. Then they are decoded from a
key frame on, without the frames that are neither wanted nor referred to by others.
"""

import math
from collections.abc import Callable
from typing import TypeVar

import av
import numpy as np
from jaxtyping import Float

Taken = TypeVar("Taken")
# Without an index, a seek may miss the key frame: then it begins earlier, by so many seconds.
_EARLIER = (0, 4, 16)


def find(
    container: av.container.InputContainer,
    stream: av.VideoStream,
    times: Float[np.ndarray, " T"],
    take: Callable[[av.VideoFrame], Taken],
    *,
    last: float,
    longest_gap: float,
) -> list[tuple[Taken, float]] | None:
    """What `take` makes of the frames nearest to `times`, and when these are shown.

    Times are in seconds from the first frame; the last lasts for `last` seconds. Returns None where
    only decoding all frames from the first on can tell the result, because the file is damaged or
    its time stamps are unusual.
    """
    context, base = stream.codec_context, stream.time_base
    try:
        origin = _first_stamp(container, stream)
        packets = [] if origin is None else _read(container, stream, times, origin)
        if not packets:
            return None
        # A frame that is shown before its key frame may refer to others that are not decoded.
        stamps = sorted({packet.pts for packet in packets if packet.pts >= packets[0].pts})
        shown = np.array([float((stamp - origin) * base) for stamp in stamps])
        gap = np.diff(shown, append=times[-1]).max()
        if times[-1] > shown[-1] + last or gap > longest_gap:
            return None
        nearest = np.searchsorted((shown[1:] + shown[:-1]) / 2, times)
        wanted, found = [stamps[i] for i in nearest], {}
        needed = {packets[0].pts, *wanted}  # some decoders go on as they begin
        for packet in [*packets, None]:  # None asks for the frames that the decoder still holds
            context.skip_frame = "NONREF" if packet and packet.pts not in needed else "DEFAULT"
            for frame in context.decode(packet):
                if frame.is_corrupt or (frame.width, frame.height) != (stream.width, stream.height):
                    return None
                if frame.pts in wanted:
                    found[frame.pts] = take(frame)
            if len(found) == len(set(wanted)):
                return [(found[s], time) for s, time in zip(wanted, shown[nearest], strict=True)]
    except av.FFmpegError:
        pass
    return None


def _first_stamp(container: av.container.InputContainer, stream: av.VideoStream) -> int | None:
    """The time stamp of the first frame; None if it is not sure."""
    first = next(container.demux(stream))
    # In an MPEG program stream, times after a seek are wrong by some frames.
    if container.format.name == "mpeg" or not first.is_keyframe or first.pts is None:
        return None
    # An edit list hides the frames before the start.
    return max(first.pts, stream.start_time or first.pts)


def _read(
    container: av.container.InputContainer,
    stream: av.VideoStream,
    times: Float[np.ndarray, " T"],
    origin: int,
) -> list[av.Packet]:
    """The packets from a key frame up to the first frame after `times`; none if it is not sure."""
    begin, end = (origin + round(time / float(stream.time_base)) for time in times[[0, -1]])
    for earlier in _EARLIER:
        container.seek(max(origin, begin - int(earlier / stream.time_base)), stream=stream)
        packets, after = [], math.inf
        for packet in container.demux(stream):
            if packet.pts is None:
                if packet.size:
                    return []
                break  # the end
            if not packets and packet.pts > begin:
                break
            if packets or packet.is_keyframe:
                packets.append(packet)
            if packet.pts >= end:
                after = min(after, packet.pts)
            if packet.dts is not None and packet.dts >= after:
                break  # no later packet is shown earlier
        if packets:
            return packets
    return []
