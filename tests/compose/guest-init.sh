#!/bin/bash
# First process of the guest: an engine, the story, and off. Everything goes to the console; the last line tells the end.
export PATH=/usr/sbin:/usr/bin:/sbin:/bin HOME=/root
mount -t proc proc /proc 2>/dev/null
mount -t sysfs sysfs /sys 2>/dev/null
mount -t cgroup2 cgroup2 /sys/fs/cgroup
mount -t tmpfs tmpfs /run
mount -t tmpfs tmpfs /tmp
ip link set lo up
# The older interface for the engine's rules: User-Mode Linux has no nf_tables for IP.
for tool in iptables ip6tables; do update-alternatives --quiet --set $tool /usr/sbin/$tool-legacy; done
dockerd >/tmp/dockerd.log 2>&1 &
for _ in $(seq 300); do
    docker info >/dev/null 2>&1 && break
    sleep 1
done
docker info --format 'engine {{.ServerVersion}}, kernel {{.KernelVersion}}' || tail -n 30 /tmp/dockerd.log
PATIENCE=300s bash /project/tests/compose/story.sh
tail -n 5 /tmp/dockerd.log
echo "guest: finished"
sync
echo o >/proc/sysrq-trigger
sleep 60
