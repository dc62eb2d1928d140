"""A relay between an RTSP client and its server that loses packets of video."""

import socket
import threading
from contextlib import suppress

RTP_CHANNEL = 0


class LossyRelay:
    """Passes everything on but the RTP packets that a rule picks; they travel within TCP.

    Attributes:
        port: that clients connect to.
        lost: number of packets that were not passed on.
    """

    def __init__(self, server_port, loses):
        """Listen.

        Args:
            server_port: of the server, on this machine.
            loses: whether the packet of this number, counted from 0 for each client, is lost.
        """
        self._server_port, self._loses = server_port, loses
        self._listener = socket.create_server(("127.0.0.1", 0))
        self.port = self._listener.getsockname()[1]
        self.lost = 0
        threading.Thread(target=self._accept, daemon=True).start()

    def close(self):
        """Take no more clients."""
        self._listener.close()

    def _accept(self):
        with suppress(OSError):
            while True:
                client = self._listener.accept()[0]
                server = socket.create_connection(("127.0.0.1", self._server_port))
                threading.Thread(target=self._up, args=(client, server), daemon=True).start()
                threading.Thread(target=self._down, args=(server, client), daemon=True).start()

    @staticmethod
    def _up(client, server):
        with suppress(OSError), client, server:
            while data := client.recv(65536):
                server.sendall(data)

    def _down(self, server, client):
        number = 0
        with suppress(OSError), server.makefile("rb") as stream, server, client:
            while first := stream.read(1):
                if first != b"$":  # a response, up to the end of its line
                    client.sendall(first + stream.readline())
                    continue
                head = stream.read(3)
                packet = stream.read(int.from_bytes(head[1:], "big"))
                is_video = head[0] == RTP_CHANNEL
                if is_video and self._loses(number):
                    self.lost += 1
                else:
                    client.sendall(first + head + packet)
                number += is_video
