"""What happened: entries that the daemon writes to the disk, and the past handovers that are put together from them.

``clock`` is the only module of swanroam that knows the time of day. ``store`` is the file; ``handovers`` reads sense
out of its entries; ``document`` is what `swanroam history --json` prints; ``svg`` draws one handover. Nothing in here
knows the protocol: the daemon writes words, and the command line reads them, in another process and perhaps in another
year.
"""
