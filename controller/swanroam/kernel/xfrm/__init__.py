"""The NETLINK_XFRM family: IPsec policies (SPD) and security associations (SAD) of the running kernel.

What lives here, from the wire upwards:

    constants      names and numbers of linux/xfrm.h and linux/netlink.h
    errors         the one hierarchy of errors of this package
    codec          fixed-size structures as tables of fields, netlink attributes, netlink messages
    selectors, lifetimes, algorithms, replay
                   the parts that policies and associations are made of
    policy, association
                   one policy, one SA: frozen data, encoded and decoded without loss
    socket         requests and answers over asyncio
    events, monitor
                   what the kernel reports by itself, typed
    policies       dump, add, update, delete; the desired-state diff of the policies that swanroam owns
    guards         pure constructors of those policies
    locks          block policies that keep packets from TCP connections while their sockets move
    states         dump, get, clone, delete and replace of SAs
    migrate        XFRM_MSG_MIGRATE, used to tell charon of a new address
    stats          /proc/net/xfrm_stat

What must not live here: peers, handovers, time. Callers are the daemon's wiring and `swanroam.ike`.
Keys pass through this package when an SA is cloned; they are held in `algorithms.KeyMaterial`, which does not print.
"""
