"""What a camera that sends video takes of a processor: decoding each frame, writing it as NV12.

.venv/bin/python benchmarks/video.py drive.mp4
"""

import sys
import time

import av
import numpy as np

from perception_nodes.video.ffmpeg import write_nv12


def main(path: str) -> int:
    """Print both in milliseconds of CPU time; status 2 where there is no video to decode."""
    decoding_s = writing_s = 0.0
    frames = 0
    try:
        with av.open(path) as container:
            (video,) = container.streams.video[:1]
            video.thread_type = "NONE"  # as where it is played
            height, width = video.height & ~1, video.width & ~1
            out = np.empty((height * 3 // 2, width), np.uint8)
            for packet in container.demux(video):
                began_s = time.thread_time()
                pictures = packet.decode()
                decoded_s = time.thread_time()
                for picture in pictures:
                    write_nv12(picture, out)
                decoding_s += decoded_s - began_s
                writing_s += time.thread_time() - decoded_s
                frames += len(pictures)
        print(
            f"{frames} frames {width}x{height}, {video.codec_context.name}: of CPU time a frame "
            f"{1e3 * decoding_s / frames:.1f} ms decoding, {1e3 * writing_s / frames:.1f} ms NV12"
        )
    except (av.FFmpegError, ValueError, ZeroDivisionError) as error:
        print(f"{path}: no video that can be decoded ({error}); give a video file", file=sys.stderr)
        return 2
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1]))
