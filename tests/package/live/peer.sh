#!/bin/bash
# The other host, in a network namespace of its own with /etc/netns/peer over /etc (ip-netns(8)): a charon and a swanroam by hand, as
# root. Its /run and its state are its own, so that the two hosts' daemons do not meet.
set -eu
mount --make-rprivate /
mount -t tmpfs tmpfs /run
mount -t tmpfs tmpfs /var/lib/swanroam
/usr/lib/ipsec/charon &
until swanctl --load-all; do sleep 1; done
python3 /root/live/talk.py listen 203.0.113.9 &
exec swanroam run
