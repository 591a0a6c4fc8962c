"""How fast tensors cross a connection: ours against sockets, AMP boxes and pickles.

    python benchmarks/wire.py [--frames 1.7,40] [--pairs 9] [--seconds 1.0] [--only NAMES]

One process sends frames of so many megabytes to another over loopback, for a while;
what is told is gigabytes a second as the receiver saw them.  Every way has a turn in
each pair, so that all see the same machine; medians, and ratios to the blocking socket
(of TLS where the way is over TLS) within the pair.

    raw       blocking sockets: sendall from the memory, recv_into it
    ours      byzpy_tw.protocol.tensor_stream.TensorStream
    amp       AMP boxes of 60,000 bytes, as AMP has them by default: each is answered
    amp-told  the same without answers: the sender never learns what has arrived
    pickle    length-prefixed pickles of numpy arrays over asyncio streams

By every way a tensor in memory of the sender's ends up in a tensor of the receiver's
that is there already, as a row of a matrix is.  Over TLS:

    tls-raw   blocking ssl sockets, TCP_NODELAY
    tls-ours  the same TensorStream on Twisted's TLS

Afterwards the time of an empty round: one server, one node, ten parameters, a batch of
one.  Beside it, a message of 40 bytes to and fro over a blocking socket.
"""

from __future__ import annotations

import argparse
import asyncio
import datetime
import json
import pickle
import socket
import ssl
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from statistics import median
from typing import Any

import numpy as np
import torch
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec

from byzpy_tw.protocol.frames import FrameKind, Header

WAYS = ("raw", "ours", "amp", "amp-told", "pickle", "tls-raw", "tls-ours")
AMP = ("amp", "amp-told")
BASE = {"tls-ours": "tls-raw", "tls-raw": "tls-raw"}
BOX = 60_000
IN_HAND = 4  # frames that a sender on a reactor has begun
TRIPS = 1_000

# -- a certificate for both ends


def certificate(folder: Path) -> Path:
    """A self-signed one, with its key, in one file."""
    key = ec.generate_private_key(ec.SECP256R1())
    name = x509.Name([x509.NameAttribute(x509.NameOID.COMMON_NAME, "benchmark")])
    now = datetime.datetime.now(datetime.UTC)
    made = (
        x509.CertificateBuilder()
        .subject_name(name)
        .issuer_name(name)
        .public_key(key.public_key())
        .serial_number(1)
        .not_valid_before(now - datetime.timedelta(days=1))
        .not_valid_after(now + datetime.timedelta(days=1))
        .sign(key, hashes.SHA256())
    )
    file = folder / "both.pem"
    file.write_bytes(
        key.private_bytes(
            serialization.Encoding.PEM,
            serialization.PrivateFormat.PKCS8,
            serialization.NoEncryption(),
        )
        + made.public_bytes(serialization.Encoding.PEM)
    )
    return file


def blocking(way: str, connection: socket.socket, pem: str, server: bool) -> Any:
    connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    if not way.startswith("tls"):
        return connection
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER if server else ssl.PROTOCOL_TLS_CLIENT)
    if server:
        context.load_cert_chain(pem)
        return context.wrap_socket(connection, server_side=True)
    context.check_hostname, context.verify_mode = False, ssl.CERT_NONE
    return context.wrap_socket(connection)


# -- receivers: they return bytes and seconds once `seconds` have passed since the first


class Meter:
    """Counts what arrived after the first frame, until the time is up."""

    def __init__(self, seconds: float) -> None:
        self.seconds, self.begun, self.bytes, self.took = seconds, 0.0, 0, 0.0

    def frame(self, size: int) -> bool:
        """A frame is here; whether that is enough."""
        now = time.perf_counter()
        if not self.begun:
            self.begun = now
        else:
            self.bytes += size
            self.took = now - self.begun
        return self.took >= self.seconds

    @property
    def rate(self) -> float:
        return self.bytes / self.took / 1e9


def receive_raw(way: str, listener: socket.socket, size: int, meter: Meter, pem: str) -> None:
    connection, _ = listener.accept()
    with blocking(way, connection, pem, True) as held:
        place = memoryview(bytearray(size))
        header = memoryview(bytearray(40))
        while True:
            for part in (header, place):
                got = 0
                while got < len(part):
                    got += held.recv_into(part[got:])
            if meter.frame(size):
                return


def receive_pickle(listener: socket.socket, size: int, meter: Meter) -> None:
    async def main() -> None:
        done: asyncio.Future[None] = asyncio.get_running_loop().create_future()

        place = np.empty(size // 4, dtype=np.float32)

        async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
            while True:
                length = int.from_bytes(await reader.readexactly(8), "little")
                place[:] = pickle.loads(await reader.readexactly(length))
                if meter.frame(place.nbytes):
                    done.set_result(None)
                    writer.close()
                    return

        server = await asyncio.start_server(serve, sock=listener)
        await done
        server.close()

    asyncio.run(main())


def receive_twisted(way: str, listener: socket.socket, size: int, meter: Meter, pem: str) -> None:
    from twisted.internet import reactor
    from twisted.internet import ssl as tls
    from twisted.internet.protocol import Factory

    def done() -> None:
        reactor.callLater(0, reactor.stop)

    place = torch.empty(size // 4)

    class Sink:
        def frame_started(self, header: Header) -> torch.Tensor:
            return place

        def frame_received(self, header: Header) -> None:
            if meter.frame(size):
                done()

    if way in AMP:
        protocol: Any = _amp(lambda count: meter.frame(count) and done(), size, way)
    else:
        from byzpy_tw.protocol.tensor_stream import TensorStream

        protocol = TensorStream(Sink(), size, lambda why: None)
    if way.startswith("tls"):
        protocol = _greeting(protocol, begins=False)
    factory = Factory.forProtocol(lambda: protocol)
    if way.startswith("tls"):
        from twisted.protocols.tls import TLSMemoryBIOFactory

        both = tls.PrivateCertificate.loadPEM(Path(pem).read_bytes())
        factory = TLSMemoryBIOFactory(both.options(), False, factory)
    listener.setblocking(False)
    reactor.adoptStreamPort(listener.fileno(), socket.AF_INET, factory)
    reactor.run()


def _greeting(stream: Any, begins: bool) -> Any:
    """A protocol that becomes `stream` after a word each way, as the real one does.

    By then the handshake is over and nothing is left in a buffer.
    """
    from twisted.internet.protocol import Protocol

    class Greeting(Protocol):
        grown = False

        def connectionMade(self) -> None:
            if begins:
                self.transport.write(b"!")

        def dataReceived(self, data: bytes) -> None:
            if self.grown:
                stream.dataReceived(data)
                return
            self.grown = True
            if not begins:
                self.transport.write(b"!")
            stream.makeConnection(self.transport)

        def connectionLost(self, reason: Any) -> None:
            stream.connectionLost(reason)

    return Greeting()


def _amp(frame: Callable[[int], Any], size: int, way: str) -> Any:
    from twisted.internet.defer import gatherResults
    from twisted.protocols import amp

    class Chunk(amp.Command):
        arguments = [(b"data", amp.String())]
        requiresAnswer = way == "amp"

    place = memoryview(bytearray(size))

    class Protocol(amp.AMP):
        at = 0

        @Chunk.responder
        def chunk(self, data: bytes) -> dict[str, Any]:
            place[self.at : self.at + len(data)] = data
            self.at += len(data)
            if self.at >= size:
                self.at = 0
                frame(size)
            return {}

        def push(self, tensor: torch.Tensor) -> Any:
            data = tensor.numpy().tobytes()
            parts = (data[a : a + BOX] for a in range(0, size, BOX))
            asked = [self.callRemote(Chunk, data=part) for part in parts]
            return gatherResults(asked) if way == "amp" else None

    return Protocol()


# -- senders: another process


def send(way: str, port: int, size: int, pem: str) -> None:
    """Send frames until the other side hangs up."""
    if way in ("ours", "tls-ours", *AMP):
        send_twisted(way, port, size)
        return
    array = np.random.default_rng(0).standard_normal(size // 4).astype(np.float32)
    if way == "pickle":

        async def main() -> None:
            _, writer = await asyncio.open_connection("127.0.0.1", port)
            while True:
                data = pickle.dumps(array, protocol=5)
                writer.write(len(data).to_bytes(8, "little"))
                writer.write(data)
                await writer.drain()

        asyncio.run(main())
    connection = socket.create_connection(("127.0.0.1", port))
    held = blocking(way, connection, pem, False)
    header, view = bytes(40), memoryview(array).cast("B")
    while True:
        held.sendall(header)
        held.sendall(view)


def send_twisted(way: str, port: int, size: int) -> None:
    from twisted.internet import endpoints, reactor
    from twisted.internet import ssl as tls

    vector = torch.randn(size // 4)

    class Nobody:
        def frame_started(self, header: Header) -> None: ...
        def frame_received(self, header: Header) -> None: ...

    def stop(*_: Any) -> None:
        if reactor.running:
            reactor.stop()

    if way == "amp":
        protocol: Any = _amp(lambda count: None, size, way)

        def more() -> None:
            protocol.push(vector).addCallbacks(lambda _: reactor.callLater(0, more), stop)
    elif way == "amp-told":
        protocol = _amp(lambda count: None, size, way)

        def more() -> None:
            # As the transport drains: a queue of all frames would be the slower way.
            if not getattr(protocol.transport, "_tempDataLen", 0):
                protocol.push(vector)
            reactor.callLater(0, more)
    else:
        from byzpy_tw.protocol.tensor_stream import TensorStream

        protocol = TensorStream(Nobody(), 1, stop, begins=True)

        def more() -> None:
            header = Header(FrameKind.VECTOR, 0, vector.numel())
            protocol.send(header, vector).addCallbacks(lambda _: reactor.callLater(0, more), stop)

    lost: Callable[..., Any] = protocol.connectionLost

    def connection_lost(reason: Any) -> None:
        lost(reason)
        stop()

    protocol.connectionLost = connection_lost
    where: Any = endpoints.TCP4ClientEndpoint(reactor, "127.0.0.1", port)
    if way.startswith("tls"):
        where = endpoints.wrapClientTLS(tls.CertificateOptions(verify=False), where)
        made: Callable[[], Any] = protocol.connectionMade
        protocol.connectionMade = lambda: (made(), [more() for _ in range(IN_HAND)])
        endpoints.connectProtocol(where, _greeting(protocol, begins=True)).addErrback(stop)
    else:
        endpoints.connectProtocol(where, protocol).addCallbacks(
            lambda _: [more() for _ in range(IN_HAND)], stop
        )
    reactor.run()


# -- the empty round


def ping_pong() -> list[float]:
    """Seconds of each trip to another process and back, over a blocking socket."""
    with child("--echo") as echo:
        port = int(echo.stdout.readline())
        with socket.create_connection(("127.0.0.1", port)) as connection:
            connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            times = []
            for _ in range(TRIPS):
                begun = time.perf_counter()
                connection.sendall(bytes(40))
                connection.recv(40, socket.MSG_WAITALL)
                times.append(time.perf_counter() - begun)
    return times


def echo() -> None:
    listener = socket.create_server(("127.0.0.1", 0))
    print(listener.getsockname()[1], flush=True)
    connection, _ = listener.accept()
    connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    while data := connection.recv(40, socket.MSG_WAITALL):
        connection.sendall(data)


def empty_rounds() -> list[float]:
    """Seconds of each round of a run that has next to nothing to compute."""
    with tempfile.TemporaryDirectory() as folder:
        command = [
            sys.executable, "-m", "byzpy_tw.train", "--local", "1", "--num-honest", "1",
            "--num-byz", "0", "--f", "0", "--aggregator", "mean", "--model", "logreg",
            "--dataset", "synthetic:n=200,classes=2,features=4", "--batch-size", "1",
            "--rounds", str(TRIPS), "--eval-interval", "0", "--quiet",
            "--run-dir", f"{folder}/run",
        ]  # fmt: skip
        subprocess.run(command, check=True, stdout=subprocess.DEVNULL)
        with open(f"{folder}/run/rounds.jsonl") as lines:
            return [json.loads(line)["seconds"] for line in lines]


def latency(pairs: int) -> None:
    print(f"\n{'':24}{'median ms':>10}{'p99 ms':>8}   (medians of {pairs})")
    for name, run in (("empty round", empty_rounds), ("40 bytes, to and fro", ping_pong)):
        runs = [sorted(run()) for _ in range(pairs)]
        middle, late = (
            median(times[int(len(times) * share)] for times in runs) * 1e3 for share in (0.5, 0.99)
        )
        print(f"{name:24}{middle:10.3f}{late:8.3f}", flush=True)


# -- one measurement: two processes, so that reactors start fresh


@contextmanager
def child(*arguments: str) -> Iterator[subprocess.Popen]:
    process = subprocess.Popen(
        [sys.executable, __file__, *arguments], stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL, text=True,
    )  # fmt: skip
    try:
        yield process
    finally:
        process.kill()
        process.wait()


def measure(way: str, size: int, seconds: float, pem: str) -> float:
    arguments = [way, str(size), str(seconds), pem]
    with child("--receive", *arguments) as receiver:
        port = receiver.stdout.readline().strip()
        with child("--send", *arguments, port):
            return float(json.loads(receiver.stdout.readline()))


def receive(way: str, size: int, seconds: float, pem: str) -> None:
    listener = socket.create_server(("127.0.0.1", 0))
    print(listener.getsockname()[1], flush=True)
    meter = Meter(seconds)
    if way in ("raw", "tls-raw"):
        receive_raw(way, listener, size, meter, pem)
    elif way == "pickle":
        receive_pickle(listener, size, meter)
    else:
        receive_twisted(way, listener, size, meter, pem)
    print(json.dumps(meter.rate), flush=True)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--frames", default="1.7,40", help="megabytes")
    parser.add_argument("--pairs", type=int, default=9)
    parser.add_argument("--seconds", type=float, default=1.0)
    parser.add_argument("--only", default=",".join(WAYS))
    parser.add_argument("--echo", action="store_true", help=argparse.SUPPRESS)
    parser.add_argument("--receive", nargs=4, help=argparse.SUPPRESS)
    parser.add_argument("--send", nargs=5, help=argparse.SUPPRESS)
    args = parser.parse_args()
    if args.echo:
        echo()
        return
    if args.receive:
        way, size, seconds, pem = args.receive
        receive(way, int(size), float(seconds), pem)
        return
    if args.send:
        way, size, _, pem, port = args.send
        try:
            send(way, int(port), int(size), pem)
        except OSError:
            pass  # the receiver has seen enough
        return
    ways = args.only.split(",")
    with tempfile.TemporaryDirectory() as folder:
        pem = str(certificate(Path(folder)))
        for megabytes in map(float, args.frames.split(",")):
            size = int(megabytes * 1e6) // 4 * 4
            rates: dict[str, list[float]] = {way: [] for way in ways}
            for _ in range(args.pairs):
                for way in ways:
                    rates[way].append(measure(way, size, args.seconds, pem))
            print(f"\nframes of {megabytes:g} MB, medians of {args.pairs}")
            print(f"{'way':10}{'GB/s':>8}{'x socket':>10}")
            for way in ways:
                base = rates.get(BASE.get(way, "raw"))
                shares = [a / b for a, b in zip(rates[way], base or [])]
                share = f"{median(shares):10.2f}" if shares else f"{'-':>10}"
                print(f"{way:10}{median(rates[way]):8.2f}{share}", flush=True)
    if args.only == ",".join(WAYS):
        latency(min(args.pairs, 5))


if __name__ == "__main__":
    main()
