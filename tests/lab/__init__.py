"""The lab: hosts made of network namespaces, a real charon in each, a router in the middle.

    guest           runs a command on this machine's kernel, or in User-Mode Linux where that lacks ESP
    kernel_probe    what the running kernel can do, found out by trying
    shards          pytest plugin: spreads test files over several guests, counts results
    topology        `Lab`: networks, router, mobile and correspondent hosts; what scenarios use
    hosts, charon, controller, traffic, capture
                    one host, its IKE daemon, its swanroam, its programs, what the router saw
    services, sessions, connections
                    packaged servers, packaged clients that are talked to, their sockets as `ss` shows them

Scenario tests import `Lab` and what it returns; nothing in here is imported by swanroam.
"""
