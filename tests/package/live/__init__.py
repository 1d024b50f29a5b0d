"""The unit under systemd itself: a Debian root with the package boots in a guest kernel, with a second host beside it.

`story.sh` is what happens there; `guest.py` gets it there and back. systemd is the first process of that guest, and
nowhere else.
"""
