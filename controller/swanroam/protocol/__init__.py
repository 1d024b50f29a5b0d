"""The handover protocol, pure: no socket, no clock, no kernel, no log, no randomness of its own.

What lives here: messages and their codec (``messages``, ``codec``), what a host says of its addresses (``binding``),
what the kernel should therefore look like (``host_state``), who may move what (``authorisation``), the two halves of
the state machine (``mobile``, ``correspondent``), the moving of sockets (``leader``, ``follower``) and the machine of
one peer that joins them (``peer``).

Called by ``daemon`` alone: ``machine.feed(event, now)`` returns actions; ``machine.wanted()`` is the host state to
apply before the actions are carried out; ``machine.deadline()`` is when to feed ``TimerExpired`` next. ``now`` is
seconds on a monotonic clock.
"""
