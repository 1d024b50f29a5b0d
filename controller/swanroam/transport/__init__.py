"""The mover: gives live connections of other programs new addresses, with the programs stopped meanwhile.

It runs in a process of its own with few rights, started when it is needed. Start-up time is silence for the programs
whose connections move, so nothing here imports more than it must: no netlink library, no YAML, no logging framework.
May import from `swanroam.kernel`, beside itself. Called by `swanroam.daemon`, as a process.

- ``image``: a connection as data, and why one may not be moved.
- ``repair``: the kernel's raw interface for taking sockets apart and putting them together again.
- ``binding``: how a socket comes by its local address without losing the ability to move again.
- ``signature``: TCP-MD5 keys.
- ``connection``, ``datagram``: one TCP connection, one UDP socket.
"""
