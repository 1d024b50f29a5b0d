"""The mover: gives live connections of other programs new addresses, with the programs stopped meanwhile.

It runs in a process of its own with few rights, started when it is needed. Start-up time is silence for the programs
whose connections move, so nothing here imports more than it must: no netlink library, no YAML, no logging framework.
May import from `swanroam.kernel`, beside itself. Called by `swanroam.daemon`, as a process; the daemon itself imports
only ``orders``.

- ``orders``: what daemon and mover say to each other; the course of a transfer. Start here.
- ``keeper``, ``transfer``: the process that takes the orders: what is held, with locks and time limits.
- ``tracer``: its child, which holds the owners still by ``stopping``, also for a moment when the keeper dies.
- ``jobs``, ``worker``, ``crew``: its child, which touches the sockets, and how the keeper finishes for one that died.
- ``finding``, ``owners``, ``stopping``, ``privileges``: which sockets and whose; stopping processes; few rights.
- ``moving``: TCP and UDP alike, over these:

- ``image``: a connection as data, and why one may not be moved.
- ``repair``: the kernel's raw interface for taking sockets apart and putting them together again.
- ``binding``: how a socket comes by its local address without losing the ability to move again.
- ``detour``: how a connection comes by a source address that no route would choose.
- ``signature``: TCP-MD5 keys.
- ``connection``, ``datagram``: one TCP connection, one UDP socket.
- ``latecomers``: datagrams for addresses that a UDP socket has left.
"""
