"""Ports for servers that tests start."""

import socket


def reserve_port() -> int:
    """A port on the loopback interface that the kernel gives to nobody else for a minute.

    The port is left in TIME_WAIT: it is not chosen for other sockets, yet a server that sets
    SO_REUSEADDR, as gRPC's and uvicorn's do, can listen on it. A port that is merely closed again
    could be taken by another process before the server starts.
    """
    with socket.socket() as server, socket.socket() as client:
        server.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        server.bind(("127.0.0.1", 0))
        server.listen(1)
        client.connect(server.getsockname())
        accepted, _ = server.accept()
        accepted.close()  # closed first on this side, whose port stays in TIME_WAIT
        return server.getsockname()[1]
