"""swanroam: keeps live TCP and UDP connections running under strongSwan when a host's address changes.

The rooms of the house, in the order in which a reader wants them:

- ``protocol``: what the two controllers say to each other and what follows from it. Pure: no socket, no clock,
  no kernel, no log. Start with ``protocol/peer.py``.
- ``kernel``: what changes this host (addresses, carrier, ingress filter, XFRM policies and SAs). Each module makes,
  finds and removes one kind of kernel object; none of them knows what a peer or a handover is.
- ``transport``: the mover, a process of its own that gives live connections new addresses. Start with
  ``transport/orders.py``.
- ``ike``: charon over VICI: its associations as data, and the two ways of moving security filters.
- ``history``: what happened, on the disk and as people read it. Start with ``history/handovers.py``.
- ``daemon``: wiring only. An event goes one way: kernel, VICI or datagram -> ``protocol`` -> actions -> ``kernel``
  and ``ike``.
- ``doctor``: looks at the host, changes nothing, and says what is wrong.
- ``cli``: one file for each command.
- ``config``: the YAML file.
"""

__version__ = "0.1.0"
