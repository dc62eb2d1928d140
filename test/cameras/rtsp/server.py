"""GStreamer's RTSP server, run by the Python that Debian's PyGObject is for.

    /usr/bin/python3 test/cameras/rtsp/server.py PORT VIDEO.mkv CODEC

Serves the video at rtsp://127.0.0.1:PORT/camera, from its beginning for each client.
"""

import sys

import gi

gi.require_version("Gst", "1.0")
gi.require_version("GstRtspServer", "1.0")
from gi.repository import GLib, Gst, GstRtspServer  # noqa: E402


def main(port: str, video: str, codec: str) -> None:
    Gst.init(None)
    factory = GstRtspServer.RTSPMediaFactory()
    pay = "rtpjpegpay" if codec == "mjpeg" else f"rtp{codec}pay config-interval=-1"
    factory.set_launch(f"( filesrc location={video} ! matroskademux ! {pay} name=pay0 pt=96 )")
    server = GstRtspServer.RTSPServer(service=port, address="127.0.0.1")
    server.get_mount_points().add_factory("/camera", factory)
    if not server.attach(None):
        sys.exit(f"port {port} is taken")
    print("ready", flush=True)
    GLib.MainLoop().run()


if __name__ == "__main__":
    main(*sys.argv[1:])
