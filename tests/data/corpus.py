"""Broken and odd video files, made anew for each run: tiny, and without a network.

`CORPUS` has a line for each file: how it is made, and what is expected of it. `make` writes them.
"""

import dataclasses
import functools
import io
import os
import zipfile
from collections.abc import Callable, Sequence
from fractions import Fraction
from pathlib import Path

import av
import cv2
import numpy as np
from av.stream import Disposition

_FPS = 24
_QUICK = {"libx264": {"preset": "ultrafast"}, "libvpx-vp9": {"cpu-used": "8"}}
_SECOND = tuple(index / _FPS for index in range(24))


@dataclasses.dataclass(frozen=True)
class Odd:
    """A file of the corpus.

    Attributes:
      make: writes the file at a path.
      frames: how many `read_frames` gives; None for some but not all of 24.
      side: height and width of these frames.
      refused: what its error says, as a regular expression; "" if the file is readable.
      untimed: whether the file does not say how long it is, so that `duration` refuses it.
      listed: whether `find_files` finds it: not if it is hidden or not a regular file.
    """

    make: Callable[[Path], object]
    frames: int | None = 24
    side: int = 32
    refused: str = ""
    untimed: bool = False
    listed: bool = True


def make(folder: Path) -> None:
    """Writes the whole corpus below a folder."""
    for name, odd in CORPUS.items():
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        odd.make(folder / name)


def encode(
    path: Path,
    *,
    times: Sequence[float] = _SECOND,
    size: tuple[int, int] = (32, 32),
    codec: str = "libx264",
    pixels: str = "yuv420p",
    noise: int = 32,
    muxer: dict[str, str] | None = None,
    container: str | None = None,
    also: Callable[[av.container.OutputContainer], object] = lambda output: None,
    **options: str,
) -> Path:
    """Writes a frame at each of `times`, of (width, height): ever lighter greys with noise."""
    rng, (width, height) = np.random.default_rng(0), size
    options = _QUICK.get(codec, {}) | options
    with av.open(str(path), "w", format=container, options=muxer or {}) as output:
        stream = output.add_stream(codec, rate=_FPS, options=options)
        stream.width, stream.height, stream.pix_fmt = width, height, pixels
        stream.codec_context.thread_count = 1
        finish = also(output)
        output.start_encoding()
        for index, time in enumerate(times):
            image = rng.integers(0, noise, (height, width), np.uint8) + np.uint8(8 * (index % 24))
            frame = av.VideoFrame.from_ndarray(image, format="gray")
            frame.pts, frame.time_base = round(time * _FPS), Fraction(1, _FPS)
            output.mux(stream.encode(frame))
        output.mux(stream.encode())
        if finish:
            finish()
    return path


def encoded(**options) -> Callable[[Path], object]:
    return functools.partial(encode, **options)


def cut(end: float | bytes, first: float = 0, **options) -> Callable[[Path], object]:
    """The bytes of a file from one share of it to another, or until certain bytes."""

    def write(path: Path) -> None:
        data = encode(path, **options).read_bytes()
        stop = data.index(end) if isinstance(end, bytes) else round(end * len(data))
        path.write_bytes(data[round(first * len(data)) : stop])

    return write


def flip(count: int, **options) -> Callable[[Path], object]:
    """Inverts bytes in the middle of the frames."""

    def write(path: Path) -> None:
        data = bytearray(encode(path, **options).read_bytes())
        start = data.index(b"mdat")
        length = int.from_bytes(data[start - 4 : start], "big")
        for at in np.random.default_rng(0).integers(length // 2, 3 * length // 4, count):
            data[start + at] ^= 0xFF
        path.write_bytes(data)

    return write


def without(*packets: int, **options) -> Callable[[Path], object]:
    """Leaves out some packets."""

    def write(path: Path) -> None:
        whole = encode(path.with_name(f".whole{path.suffix}"), **options)
        with av.open(str(whole)) as source, av.open(str(path), "w") as container:
            stream = container.add_stream_from_template(source.streams.video[0])
            for index, packet in enumerate(source.demux(video=0)):
                if packet.dts is not None and index not in packets:
                    packet.stream = stream
                    container.mux(packet)
        whole.unlink()

    return write


def turned(cosine: int, sine: int) -> Callable[[Path], object]:
    """Has players turn the picture clockwise."""

    def write(path: Path) -> None:
        data = bytearray(encode(path).read_bytes())
        matrix = (0, 4, 16, 12)
        at = data.index((1 << 16).to_bytes(4, "big"), data.index(b"tkhd") + 40)
        for offset, value in zip(matrix, (cosine, sine, cosine, -sine), strict=True):
            data[at + offset : at + offset + 4] = (value << 16).to_bytes(4, "big", signed=True)
        path.write_bytes(data)

    return write


def latin_title(path: Path) -> None:
    encode(path, codec="mpeg4", also=lambda output: output.metadata.update(title="cafe"))
    path.write_bytes(path.read_bytes().replace(b"cafe", "café".encode("latin-1")))


def joined(*sizes: tuple[int, int]) -> Callable[[Path], object]:
    def write(path: Path) -> None:
        path.write_bytes(b"".join(encode(path, size=size).read_bytes() for size in sizes))

    return write


def sound(container: av.container.OutputContainer) -> Callable[[], None]:
    """Adds a second of silence."""
    stream = container.add_stream("aac", rate=8000)

    def finish() -> None:
        frame = av.AudioFrame.from_ndarray(np.zeros((1, 8000), np.float32), "fltp", "mono")
        frame.rate = 8000
        container.mux(stream.encode(frame))
        container.mux(stream.encode())

    return finish


def only_sound(path: Path, cover: bool = False) -> None:
    with av.open(str(path), "w") as container:
        finish = sound(container)
        if cover:
            stream = container.add_stream("mjpeg", rate=1)
            stream.width, stream.height, stream.pix_fmt = 16, 16, "yuvj420p"
            stream.disposition = Disposition.attached_pic
            container.mux(stream.encode(av.VideoFrame(16, 16, "yuvj420p")))
            container.mux(stream.encode())
        finish()


def second_video(container: av.container.OutputContainer) -> Callable[[], None]:
    stream = container.add_stream("libx264", rate=_FPS)
    stream.width, stream.height, stream.pix_fmt = 64, 48, "yuv420p"

    def finish() -> None:
        container.mux(stream.encode(av.VideoFrame(64, 48, "yuv420p")))
        container.mux(stream.encode())

    return finish


def subtitles(container: av.container.OutputContainer) -> Callable[[], None]:
    source = av.open(io.BytesIO(b"1\n00:00:00,000 --> 00:00:00,900\nhello\n"), format="srt")
    stream = container.add_stream_from_template(source.streams[0])

    def finish() -> None:
        packet = next(source.demux())
        packet.stream = stream
        container.mux(packet)
        source.close()

    return finish


def data(container: av.container.OutputContainer) -> Callable[[], None]:
    stream = container.add_data_stream("klv")

    def finish() -> None:
        packet = av.Packet(b"\x06\x0e\x2b\x34")
        packet.stream, packet.time_base = stream, Fraction(1, 90000)
        packet.pts = packet.dts = 0
        container.mux(packet)

    return finish


def link(target: str) -> Callable[[Path], object]:
    return lambda path: path.symlink_to(target)


def locked(path: Path) -> None:
    encode(path).chmod(0)


def content(data: bytes | str) -> Callable[[Path], object]:
    return lambda path: path.write_bytes(data.encode() if isinstance(data, str) else data)


def picture(path: Path) -> None:
    _, data = cv2.imencode(".jpg", np.zeros((32, 32, 3), np.uint8))
    path.write_bytes(data.tobytes())


def archive(path: Path) -> None:
    with zipfile.ZipFile(path, "w") as file:
        file.writestr("a.txt", "hello")


def hls(name: str) -> str:
    """A playlist of one file."""
    return f"#EXTM3U\n#EXT-X-TARGETDURATION:2\n#EXTINF:1,\n{name}\n#EXT-X-ENDLIST\n"


def beside(list_of: Callable[[str], str]) -> Callable[[Path], object]:
    """A playlist that names a good file beside it."""
    return lambda path: path.write_text(list_of(encode(path.with_name(".other.ts")).name))


def _dash(name: str) -> str:
    return (
        '<?xml version="1.0"?><MPD xmlns="urn:mpeg:dash:schema:mpd:2011" type="static" '
        'mediaPresentationDuration="PT1S" minBufferTime="PT1S" '
        'profiles="urn:mpeg:dash:profile:isoff-on-demand:2011"><Period><AdaptationSet '
        f'mimeType="video/mp4"><Representation id="0" bandwidth="1"><BaseURL>{name}</BaseURL>'
        "</Representation></AdaptationSet></Period></MPD>"
    )


_STREAM = """v=0
o=- 0 0 IN IP4 127.0.0.1
s=x
c=IN IP4 127.0.0.1
t=0 0
m=video 5004 RTP/AVP 96
a=rtpmap:96 H264/90000
"""
_FAST = {"movflags": "faststart"}
_FRAGMENTS = {"movflags": "frag_keyframe+empty_moov"}
_NO_VIDEO = "^not a video, or truncated before its index"
_DAMAGED = "^truncated or damaged after "

CORPUS = {
    # Whole, and not of the common kind.
    "plain.mp4": Odd(encode),
    "an_mp4.avi": Odd(encoded(container="mp4")),
    "no_extension": Odd(encoded(container="mp4")),
    "fragments.mp4": Odd(encoded(muxer=_FRAGMENTS, g="6")),
    "reordered.mp4": Odd(encoded(bf="2", b_strategy="0")),
    "one.mp4": Odd(encoded(times=[0]), frames=1),
    "two.mp4": Odd(encoded(times=[0, 1 / 24]), frames=2),
    "uneven.mkv": Odd(encoded(times=[0, 0.125, 0.25, 1.5, 1.625]), frames=5),
    "1x1.mkv": Odd(encoded(size=(1, 1), codec="ffv1", pixels="gray"), side=1),
    "3x5.mkv": Odd(encoded(size=(3, 5), codec="ffv1", pixels="gray"), side=3),
    "17x33.mp4": Odd(encoded(size=(17, 33), pixels="yuv444p"), side=17),
    "512x2.mp4": Odd(encoded(size=(512, 2)), side=2),
    "8192x64.mp4": Odd(encoded(times=[0], size=(8192, 64), noise=1), frames=1, side=64),
    "4096x4096.mov": Odd(
        encoded(times=[0], size=(4096, 4096), noise=1, codec="mjpeg", pixels="yuvj420p"),
        frames=1,
        side=4096,
    ),
    "turned_90.mp4": Odd(turned(0, 1)),
    "turned_180.mp4": Odd(turned(-1, 0)),
    "turned_270.mp4": Odd(turned(0, -1)),
    "ten_bits.mp4": Odd(encoded(pixels="yuv420p10le")),
    "grey.mp4": Odd(encoded(pixels="gray")),
    "alpha_prores.mov": Odd(encoded(codec="prores_ks", pixels="yuva444p10le", profile="4444")),
    "alpha_qtrle.mov": Odd(encoded(codec="qtrle", pixels="argb")),
    "alpha_png.mov": Odd(encoded(codec="png", pixels="rgba")),
    "alpha_vp9.webm": Odd(encoded(codec="libvpx-vp9", pixels="yuva420p")),
    "interlaced.mpg": Odd(encoded(codec="mpeg2video", flags="+ildct+ilme")),
    "interlaced.mp4": Odd(encoded(**{"x264-params": "interlaced=1"})),
    "animated.gif": Odd(encoded(codec="gif", pixels="gray")),
    "animated.apng": Odd(encoded(codec="apng", pixels="rgb24"), untimed=True),
    "live.mkv": Odd(encoded(muxer={"live": "1"}), untimed=True),
    "bare.h264": Odd(encode, untimed=True),
    # Other streams beside the video.
    "sound.mp4": Odd(encoded(also=sound)),
    "latin_title.avi": Odd(latin_title),
    "second_video.mkv": Odd(encoded(also=second_video)),
    "subtitles.mkv": Odd(encoded(also=subtitles)),
    "data.ts": Odd(encoded(also=data)),
    "only_sound.mp4": Odd(only_sound, 0, refused="^has no video stream"),
    "cover_picture.mp4": Odd(
        functools.partial(only_sound, cover=True), 0, refused="^has no video stream"
    ),
    # Times.
    "late.ts": Odd(encoded(times=np.arange(24) / 24 + 5)),
    "negative.mkv": Odd(encoded(times=np.arange(24) / 24 - 0.5)),
    "half_cut_by_edit_list.mp4": Odd(encoded(times=np.arange(24) / 24 - 0.5), frames=12),
    "joined.ts": Odd(joined((32, 32), (32, 32)), frames=48),
    "long_gap.mkv": Odd(
        encoded(times=[0, 0.125, 0.25, 100]), frames=3, refused=_DAMAGED + r"0\.25 s \(no frames"
    ),
    "new_size.ts": Odd(
        joined((32, 32), (48, 32)), refused="^resolution changes from 32x32 to 48x32 after 0.96 s"
    ),
    # Cut off or damaged.
    "empty.mp4": Odd(content(""), 0, refused=_NO_VIDEO),
    "one_byte.mp4": Odd(content("\0"), 0, refused=_NO_VIDEO),
    "zeros.mp4": Odd(content(bytes(10_000)), 0, refused=_NO_VIDEO),
    "cut_10.mp4": Odd(cut(0.1), 0, refused=_NO_VIDEO),
    "cut_50.mp4": Odd(cut(0.5), 0, refused=_NO_VIDEO),
    "cut_in_index.mp4": Odd(cut(b"stsd"), 0, refused="^no decoder for its codec, or truncated"),
    "cut_faststart_1.mp4": Odd(cut(0.01, muxer=_FAST), 0, refused="^has no video stream"),
    "cut_faststart_10.mp4": Odd(cut(0.1, muxer=_FAST), 0, refused="^has no frames"),
    "cut_faststart_50.mp4": Odd(cut(0.5, muxer=_FAST), None, refused=_DAMAGED),
    "cut_faststart_99.mp4": Odd(cut(0.99, muxer=_FAST), None, refused=_DAMAGED),
    "cut_fragments.mp4": Odd(cut(0.5, muxer=_FRAGMENTS, g="6"), None, refused=_DAMAGED),
    "cut_10.mkv": Odd(cut(0.1), 0, refused="^(not a video, or truncated|has no frames)"),
    "cut_50.mkv": Odd(cut(0.5), None, refused=r"^truncated, the last 0\.\d+ of 1\.00 s"),
    "cut_50.webm": Odd(cut(0.5, codec="libvpx"), None, refused="^truncated, the last"),
    "cut_80.avi": Odd(cut(0.8, codec="mpeg4"), None, refused="^truncated"),
    "cut_50.flv": Odd(cut(0.5, codec="flv"), None, refused="^truncated"),
    "cut_50.ts": Odd(cut(0.5), None),
    "cut_50.gif": Odd(cut(0.5, codec="gif", pixels="gray"), None),
    "begins_midway.ts": Odd(cut(1, first=0.3, g="8"), None),
    "begins_midway.mkv": Odd(cut(1, first=0.3), 0, refused=_NO_VIDEO),
    "flipped_bytes.mp4": Odd(flip(5), None, refused=_DAMAGED),
    "flipped_bytes_mpeg4.mp4": Odd(flip(5, codec="mpeg4"), None, refused=_DAMAGED),
    "flipped_bytes.mov": Odd(flip(5, codec="mjpeg", pixels="yuvj420p"), None, refused=_DAMAGED),
    "no_first_key.mp4": Odd(without(*range(5), g="8"), 16),
    "no_key.mp4": Odd(without(0), 0, refused="^has no frames"),
    "lost_key.mp4": Odd(without(8, g="8"), 17),
    "no_frames.mkv": Odd(encoded(times=[]), 0, refused="^has no frames"),
    # No videos.
    "text.mp4": Odd(content("hello\n" * 100), 0, refused=_NO_VIDEO),
    "terminal.nfo": Odd(content("\x1b[31mhello\n" * 100), 0, refused=_NO_VIDEO),
    "page.mp4": Odd(content("<!DOCTYPE html><html>404</html>"), 0, refused=_NO_VIDEO),
    "archive.mp4": Odd(archive, 0, refused=_NO_VIDEO),
    "picture.mp4": Odd(picture, 1, untimed=True),
    "picture_0.jpg": Odd(picture, 1, untimed=True),
    "picture_1.jpg": Odd(picture, 1, untimed=True),
    "picture_%d.jpg": Odd(picture, 1, untimed=True),  # a pattern to FFmpeg
    # Lists of other files.
    "playlist.m3u8": Odd(beside(hls), 0, refused=_NO_VIDEO),
    "playlist.mp4": Odd(beside(hls), 0, refused=_NO_VIDEO),
    "list.ffconcat": Odd(
        beside(lambda name: f"ffconcat version 1.0\nfile {name}\n"), 0, refused=_NO_VIDEO
    ),
    "stream.sdp": Odd(content(_STREAM), 0, refused=_NO_VIDEO),
    "dash.mpd": Odd(beside(_dash), 0, refused=_NO_VIDEO),
    # Names and kinds of files.
    "names/clip:1.mp4": Odd(encode),
    "names/100%d.mp4": Odd(encode),
    "names/-dash.mp4": Odd(encode),
    "names/two\nlines.mp4": Odd(encode),
    "names/视频.mp4": Odd(encode),
    "names/not_utf8_\udcff.mp4": Odd(encode),
    ".hidden.mp4": Odd(encode, listed=False),
    "folder.mp4": Odd(Path.mkdir, 0, refused="^not a regular file", listed=False),
    "pipe.mp4": Odd(os.mkfifo, 0, refused="^not a regular file", listed=False),
    "device.mp4": Odd(link("/dev/zero"), 0, refused="^not a regular file", listed=False),
    "broken_link.mp4": Odd(link("nowhere"), 0, refused="^cannot be read: No such", listed=False),
    "circle.mp4": Odd(link("circle.mp4"), 0, refused="^cannot be read: Too many", listed=False),
    "names/loop": Odd(link(".."), 0, refused="^not a regular file", listed=False),
    "link.mp4": Odd(link("plain.mp4")),
    "locked.mp4": Odd(locked, 0, refused="^cannot be read: Permission denied"),
}
if os.geteuid() == 0:  # who may read all files
    del CORPUS["locked.mp4"]
