"""What swanroam asks of the IKE daemon, and what it learns from it, over VICI. Only `migrate` touches the kernel.

- `messages`      VICI messages as typed data, and the package's errors
- `vici`          asyncio client: one connection for commands, one for events, reconnection
- `selectors`     traffic selectors as charon prints them
- `associations`  IKE_SAs and CHILD_SAs as data, from `list-sas`
- `definitions`   the administrator's connections exactly as `swanctl` loads them, and clones bound to an address pair
- `clones`        names of those clones
- `expectations`  what new associations must look like, in charon and in the kernel
- `renegotiate`   make before break: a second IKE_SA for a new address pair beside the old one
- `migrate`       the existing IKE_SA follows the addresses, through charon's doorbell

Called by the daemon. Nothing here knows about handovers, the control protocol or the journal.
"""
