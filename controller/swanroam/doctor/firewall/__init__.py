"""Would this host's packet filter let through what swanroam needs?

`nftables` and `iptables` read what the filters' own programs print, `rules` walks a packet through it, `packets` tells
what a packet is, and `checks` which packets have to pass and what to say when they do not. What a rule asks of a packet
that cannot be foretold (its mark, a rate, a set that changes) is answered by "perhaps"; then there is a suspicion, and
it is called one. Filters between the hosts, and programs of BPF, are not seen from here.
"""
