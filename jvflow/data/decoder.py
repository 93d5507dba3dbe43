"""Decodes the video stream of a file with PyAV, and measures its length and frame rate.

Damage is what the decoder detects: with the option `err_detect=explode`, it refuses a corrupt packet instead of
concealing it. Let e be such a packet, and k the next key frame in the order of the packets. The pictures of the packets
from e on, until k is shown, are damaged, since they may refer to the lost one.                    (1)

Bytes that are wrong and still decode are not detected; hevc checks little apart from headers.
"""

import os
from bisect import bisect_right
from collections import deque
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import replace
from fractions import Fraction
from pathlib import Path

import av
from av.sidedata.sidedata import Type

from jvflow.data import timing
from jvflow.data.timing import LONGEST, Length, Stamp

ERRORS = {"err_detect": "crccheck+bitstream+buffer+explode"}
WITH_ALPHA = {"vp8": "libvpx", "vp9": "libvpx-vp9"}
"""Decoders that read the alpha channel, which FFmpeg's own decoders of these formats ignore."""
ANY_TEXT = {} if int(av.__version__.partition(".")[0]) >= 19 else {"metadata_errors": "replace"}
"""Opens files whose metadata are not UTF-8; PyAV 19 does so by itself, and has no such option."""
JOINT = 2
"""Packets before a joint of two MPEG-TS files, one of which FFmpeg calls corrupt."""
AGREEING = 0.01
"""Largest relative difference of a measured frame rate from the declared one, for which the declared one is exact."""


def open_file(path: str | os.PathLike):
    """Returns the open container; raises ValueError if it has no video that FFmpeg can read."""
    path = Path(path)
    if not path.is_file():
        raise ValueError(f"{path} is not a file")
    try:
        # absolute, because FFmpeg takes "12:30/a.mp4" for a protocol
        container = av.open(str(path.absolute()), **ANY_TEXT)
    except av.FFmpegError as error:
        raise ValueError(f"{path} does not decode: {error.strerror}") from error
    stream = video_stream(container)
    if stream is None or stream.codec_context is None:
        container.close()
        reason = "it has no video stream" if stream is None else "FFmpeg has no decoder for its video stream"
        raise ValueError(f"{path} does not decode: {reason}")
    return container


def video_stream(container):
    """Returns the first video stream that is not a cover picture; None if there is none."""
    cover = av.stream.Disposition.attached_pic
    moving = [stream for stream in container.streams.video if not stream.disposition & cover]
    return moving[0] if moving else None


def declared_rate(stream) -> Fraction:
    """Returns the frame rate that the file declares or FFmpeg guesses; 25 without one."""
    return Fraction(stream.guessed_rate or stream.average_rate or 25)


def display_matrix(path: str | os.PathLike) -> bytes | None:
    """Returns the display matrix of the first frame."""
    with open_file(path) as container, suppress(av.FFmpegError):
        for frame in container.decode(video_stream(container)):
            side_data = frame.side_data.get(Type.DISPLAYMATRIX)
            return None if side_data is None else bytes(side_data)


def has_hidden_alpha(stream) -> bool:
    """Returns whether the alpha channel is next to the stream, as in webm."""
    return stream.codec_context.name in WITH_ALPHA and stream.metadata.get("alpha_mode") == "1"


def decode(path: str | os.PathLike, container) -> Iterator[Stamp]:
    """Yields the pictures in the order of presentation; damaged ones (1) have a reason.

    Raises:
      ValueError: after the last picture, if the file has none, or ends before the end that it declares.
    """
    stream = video_stream(container)
    decoder = _decoder(stream)
    faults, reason, lost = [], "", []  # corrupt packets: their numbers, why, the times of those without a picture
    keys, cleared = set(), -1  # packets with key frames that decode; the last one of them that was shown
    first, covered, last, length = True, Fraction(0), None, None
    for number, packet in enumerate(_packets(container, stream)):
        data = None
        if isinstance(packet, av.Packet):
            data, packet.opaque = packet, number
            if packet.is_keyframe:
                keys.add(number)
            if packet.is_corrupt:
                faults.append(number)
                keys.discard(number)
                reason = reason or "its container reports corrupt packets"
        try:
            frames = decoder.decode(data)
        except av.EOFError:
            frames = []
        except av.FFmpegError as error:
            faults.append(number)
            keys.discard(number)
            lost += [] if data is None or data.pts is None else [data.pts * stream.time_base]
            reason = reason or f"its decoder reports: {error.strerror}"
            frames = []
        for frame in frames:
            first = False
            source = number if frame.opaque is None else frame.opaque
            if frame.is_corrupt:
                faults = sorted({*faults, source})
                reason = reason or "its decoder reports corrupt frames"
            elif frame.key_frame or source in keys:
                cleared = max(cleared, source)
            fault = faults[bisect_right(faults, source) - 1] if faults and faults[0] <= source else -1
            why = f"{path} is damaged: {reason}"
            stamp = _stamp(frame, stream, why if fault > cleared else "")
            if stamp.time is not None:
                if last is not None and any(last < time < stamp.time for time in lost):
                    stamp = replace(stamp, loss=why)
                lost = [time for time in lost if time > stamp.time]
                covered += max(stamp.time - last, Fraction(0)) if last is not None else 0
                last, length = stamp.time, stamp.duration
            yield stamp
    stop = packet  # of the container
    if first:
        raise ValueError(f"{path} does not decode: {reason or stop or 'its video stream holds no frame'}")
    if stop:
        raise ValueError(f"{path} does not decode after {float(covered):.2f} s: {stop}")
    if last is not None:
        length = length or min(1 / declared_rate(stream), LONGEST)
        _check_end(path, declared_length(container, stream), covered + length, last + length, length)


def _packets(container, stream) -> Iterator[av.Packet | str]:
    """Yields the packets of a stream, then why the container stops: empty at its end.

    At a joint of two files, MPEG-TS calls one of the last packets corrupt (`JOINT`), because the count of packets
    starts again there; they are complete.
    """
    held, stop = deque(), ""
    try:
        for packet in container.demux(stream):
            if not packet.size:
                continue
            if held and packet.is_keyframe and None not in (held[-1].dts, packet.dts):
                step = (packet.dts - held[-1].dts) * stream.time_base
                if not 0 <= step <= LONGEST:
                    for last in held:
                        last.is_corrupt = False
            held.append(packet)
            if len(held) > JOINT:
                yield held.popleft()
    except av.FFmpegError as error:
        stop = error.strerror
    yield from held
    yield stop


def _decoder(stream):
    """Returns the decoder of a stream, without FFmpeg's threads.

    Threads for frames report errors late, and with threads for slices h264 does not report concealed pictures.
    """
    if has_hidden_alpha(stream):
        decoder = av.CodecContext.create(WITH_ALPHA[stream.codec_context.name], "r")
    else:
        decoder = stream.codec_context
        decoder.options = ERRORS
        if decoder.name != "libdav1d":  # has its own threads, which neither delay nor hide errors
            decoder.thread_count = 1
    decoder.copy_opaque = True
    return decoder


def _stamp(frame: av.VideoFrame, stream, damage: str) -> Stamp:
    ticks = frame.dts if frame.pts is None else frame.pts
    time = None if ticks is None else ticks * stream.time_base
    return Stamp(time, frame.duration * stream.time_base if frame.duration else None, frame, damage)


def _check_end(path, declared: Fraction, covered: Fraction, end: Fraction, length: Fraction) -> None:
    """Raises ValueError if the video is shorter than declared; not every decoder raises at the end of a truncated file.

    Some containers declare the length, and some (mkv) the time of the end.
    """
    if max(covered, end) < declared - 2 * length:
        raise ValueError(
            f"{path} ends after {float(covered):.2f} s of the {float(declared):.2f} s that it declares: "
            "it is truncated or damaged"
        )


def declared_length(container, stream) -> Fraction:
    """Returns the declared length of the video in seconds, 0 if there is none."""
    if stream.duration:
        return stream.duration * stream.time_base
    only_video = len(container.streams) == 1  # sound may last longer than the pictures
    return Fraction(container.duration or 0, av.time_base) if only_video else Fraction(0)


def measure(path: str | os.PathLike) -> Length:
    """Returns the length of a file from the presentation times of its packets, without decoding it."""
    with open_file(path) as container:
        stream = video_stream(container)
        return timing.measure(timing.intervals(_ordered(container, stream), 1 / declared_rate(stream)))


def native_fps(path: str | os.PathLike) -> float:
    """Returns the frame rate: the declared one if the presentation times agree with it, else their mean rate."""
    with open_file(path) as container:
        declared = declared_rate(video_stream(container))
    measured = measure(path).fps
    return float(declared if abs(measured - declared) <= AGREEING * declared else measured)


def _ordered(container, stream) -> Iterator[Stamp]:
    """Yields the packets that are shown, without content, in the order of presentation.

    Sorts them between two places where the decoding time starts again.
    """
    run, before = [], None
    for packet in _packets(container, stream):
        if isinstance(packet, str) or packet.is_discard:
            continue
        if before is not None and packet.dts is not None and packet.dts < before:
            yield from _in_order(run, Fraction(stream.time_base))
            run = []
        before = before if packet.dts is None else packet.dts
        run.append((packet.dts if packet.pts is None else packet.pts, packet.duration or 0))
    yield from _in_order(run, Fraction(stream.time_base))


def _in_order(run: list[tuple[int | None, int]], tick: Fraction) -> list[Stamp]:
    if all(time is not None for time, _ in run):
        run = sorted(run)
    time_of = lambda ticks: None if ticks is None else ticks * tick
    return [Stamp(time_of(time), duration * tick if duration else None, None) for time, duration in run]
