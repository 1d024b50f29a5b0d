"""Random input, a million times: `python -m fuzz` (make fuzz).

    engine       runs a target, keeps what breaks it
    parser       datagrams against the message codec
    core         datagrams, events and crashes against one peer's machine
    codecs       octets against the readers of what the kernel sends over NETLINK_XFRM
    mutation     how valid input is damaged
    corpus       input that once broke something, or is hard to come by; tests/unit/test_fuzz.py repeats all of it

An input of every target is a string of octets, so that it can be kept in a file whatever the generator becomes.
"""
