"""What one server is willing to hold, for all its trainers together."""

from __future__ import annotations

from attrs import frozen

from byzpy_tw.protocol.limited_amp import BOX_BYTES, IN_FLIGHT


@frozen(kw_only=True)
class Limits:
    """Each has its option on ``twistd byzpy-server`` unless it says otherwise."""

    nodes: int = 4096  # nodes on this server, of all runs
    vector_mib: int = 1024  # one vector of one model, in MiB
    runs: int = 16  # runs open at once
    shards: int = 65_536  # honest nodes of a run, wherever they are (no option)
    batch: int = 65_536  # examples of one node's batch (no option)
    micro_batch: int = 4_096  # examples computed on at once by one thread (no option)
    working_mib: int = 4096  # what one thread keeps of a micro-batch, in MiB
    data_mib: int = 8192  # all datasets together, in MiB
    pieces: int = 2**24  # of data that a partition may deal out one by one (no option)
    shown_mib: int = 4096  # what a round's attacks are shown, in MiB
    connections: int = 256  # connections at once
    # More of peers that protected mode turns away, or that have shown no certificate
    # yet (no option).
    unauthenticated: int = 16
    commands: int = IN_FLIGHT  # being answered at once on one connection
    box_bytes: int = BOX_BYTES  # of one command with its arguments
    hello_seconds: float = 10.0  # until a new connection has said what it is for
    idle_seconds: float = 120.0  # that a trainer may be silent; see `idle`
    linger_seconds: float = 5.0  # for a peer that was hung up on to go (no option)
    ticket_seconds: float = 60.0  # between OpenRun and OpenStream (no option)

    @property
    def vector_elements(self) -> int:
        """The most parameters that a model may have."""
        return self.vector_mib * 2**20 // 4
