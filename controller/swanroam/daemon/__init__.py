"""The daemon: wiring only.

Events from the kernel, charon, the control channel, the local API and timers go into one queue (``controller``),
from there into the machine of the peer that they concern, and what comes out is journalled, applied to the kernel
(``host``) and carried out. Nothing here decides what a handover does; that is ``protocol``. Called by ``cli`` alone.
"""
