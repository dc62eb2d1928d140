"""Recorded video packets, decoded into images."""

from perception_nodes.core.frame import FrameRejected, ImageView
from perception_nodes.drives.schemas import COMPRESSED_VIDEO, FFMPEG_PACKET
from perception_nodes.transport.cdr_reader import read_compressed_video, read_ffmpeg_packet
from perception_nodes.transport.cdr_writer import write_image, write_no_image
from perception_nodes.video.packet_decoder import VideoDecoder

READERS = {COMPRESSED_VIDEO: read_compressed_video, FFMPEG_PACKET: read_ffmpeg_packet}
VIDEO_TYPES = tuple(READERS)


class RecordedPackets:
    """Decodes the packets of a topic, which must be given completely and in order."""

    def __init__(self, message_type: str) -> None:
        """Begin before the first packet; its type is one of `VIDEO_TYPES`."""
        self._read = READERS[message_type]
        self._decoder = VideoDecoder()

    def image(self, message: bytes) -> bytes:
        """Decode a packet into an `Image`; if that fails, into one of no size with the reason."""
        packet = ImageView(0, "", 0, 0, "", 0, memoryview(b""))
        try:
            packet = self._read(message)
            return write_image(self._decoder.decode(packet))
        except FrameRejected as error:
            return write_no_image(packet.stamp_ns, packet.frame_id, str(error))
