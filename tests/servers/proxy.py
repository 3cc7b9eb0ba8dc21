"""A TCP proxy that loses connections on demand, to be put between a driver and its server."""

import socket
import struct
import threading
from contextlib import suppress
from enum import Enum

from .ports import free_port

SECONDS = 20
"""A failure bound: what has not come through the proxy, or ended, by then will not."""

GLANCE = 0.05
"""Seconds between two looks of the listening thread whether it is to go on."""

CHUNK = 65_536

RESET_AT_CLOSE = struct.pack("ii", 1, 0)
"""SO_LINGER: closing throws away what was not sent, and tells the other side so (RST)."""


class Way(Enum):
    TO_SERVER = "to the server"
    TO_CLIENT = "to the client"


class Proxy:
    """Passes connections to 127.0.0.1:`port` on to the target, within `with`, until it is told otherwise.

    To lose a confirm: `stall(Way.TO_CLIENT)`, publish, `wait_held(Way.TO_CLIENT)`, `cut()`.
    """

    def __init__(self, target, host="127.0.0.1", port=None):
        self.port = port or free_port()
        self._target = (host, target)
        self._gates = {way: _Gate() for way in Way}
        self._pairs = []
        self._listening = None

    def __enter__(self):
        self._listen()
        return self

    def __exit__(self, *_):
        self.refuse()

    def cut(self):
        """End every connection, with what is on its way. New ones pass, unless `refuse` was said."""
        pairs, self._pairs = self._pairs, []
        for pair in pairs:
            pair.cut()

    def stall(self, way):
        """Pass nothing on in this direction. Both sides keep their connections and learn nothing."""
        self._gates[way].close()

    def stall_at(self, way, words):
        """The same from when these bytes come in one piece, which itself is held back."""
        self._gates[way].close_at(words)

    def wait_held(self, way):
        """Until something has come that `stall` holds back."""
        assert self._gates[way].wait_held(), f"nothing came that was going {way.value}"

    def pass_on(self, way):
        """What `stall` holds back in this direction, and all that comes."""
        self._gates[way].open()

    def refuse(self):
        """End every connection, and let no new one in: nobody listens."""
        if self._listening:
            self._listening.end()
            self._listening = None
        self.cut()

    def resume(self):
        """Listen again, and pass on what was held back and all that comes."""
        for gate in self._gates.values():
            gate.open()
        if not self._listening:
            self._listen()

    def _listen(self):
        self._listening = _Listening(self.port, self._connect)

    def _connect(self, client):
        try:
            server = socket.create_connection(self._target, SECONDS)
        except OSError:
            client.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, RESET_AT_CLOSE)
            client.close()
        else:
            self._pairs.append(_Pair(client, server, self._gates))


class _Gate:
    """What goes in one direction, through all connections, goes through here."""

    def __init__(self):
        self._change = threading.Condition()
        self._open = True
        self._held = 0
        self._words = None

    def close(self):
        with self._change:
            self._open = False

    def close_at(self, words):
        with self._change:
            self._words = words

    def open(self):
        with self._change:
            self._open = True
            self._words = None
            self._change.notify_all()

    def look(self):
        """Let those who wait see that they need not wait any more."""
        with self._change:
            self._change.notify_all()

    def wait_open(self, data, given_up):
        with self._change:
            if self._words is not None and self._words in data:
                self._open = False
            self._held += 1
            self._change.notify_all()
            self._change.wait_for(lambda: self._open or given_up())
            self._held -= 1

    def wait_held(self):
        with self._change:
            return self._change.wait_for(lambda: self._held and not self._open, SECONDS)


class _Pair:
    """One connection of a client, and ours to the server for it."""

    def __init__(self, client, server, gates):
        self._sockets = (client, server)
        self._gates = gates
        self._is_cut = threading.Event()
        for end in self._sockets:
            end.settimeout(None)
            end.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        ways = ((client, server, gates[Way.TO_SERVER]), (server, client, gates[Way.TO_CLIENT]))
        self._threads = [threading.Thread(target=self._pass_on, args=way, daemon=True) for way in ways]
        for thread in self._threads:
            thread.start()

    def cut(self):
        self._is_cut.set()
        for end in self._sockets:
            end.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, RESET_AT_CLOSE)
            # Closing alone would not wake a thread that reads or writes.
            with suppress(OSError):
                end.shutdown(socket.SHUT_RDWR)
        for gate in self._gates.values():
            gate.look()
        for thread in self._threads:
            thread.join(SECONDS)
            assert not thread.is_alive(), "a connection of the proxy did not end"
        for end in self._sockets:
            end.close()

    def _pass_on(self, source, sink, gate):
        with suppress(OSError):
            while data := source.recv(CHUNK):
                gate.wait_open(data, self._is_cut.is_set)
                if self._is_cut.is_set():
                    return
                sink.sendall(data)
            sink.shutdown(socket.SHUT_WR)


class _Listening:
    """Hands every connection that comes to `connect`, until it is ended."""

    def __init__(self, port, connect):
        self._socket = socket.create_server(("127.0.0.1", port))
        self._socket.settimeout(GLANCE)
        self._connect = connect
        self._goes_on = True
        self._thread = threading.Thread(target=self._accept, daemon=True)
        self._thread.start()

    def end(self):
        self._goes_on = False
        self._thread.join(2 * SECONDS)
        assert not self._thread.is_alive(), "the proxy did not stop listening"
        self._socket.close()

    def _accept(self):
        while self._goes_on:
            with suppress(TimeoutError):
                client, _ = self._socket.accept()
                self._connect(client)
