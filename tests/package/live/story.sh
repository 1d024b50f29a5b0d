#!/bin/bash
# What happens in the guest, by systemd's own init and its own words, with the package and its unit as they are. Lines that begin with
# == are for who reads the report: the name of a section, or the exit status of what was just run.
set -u
mkdir -p /run/report
mount -t hostfs -o "$(sed 's/.*report=\([^ ]*\).*/\1/' /proc/cmdline)" none /run/report || exit
exec >/run/report/output 2>&1

section() { echo "== $*"; }
run() { # COMMAND...: what it says, and how it ends
    "$@"
    section "status $?"
}
properties() {
    systemctl show swanroam --property=ActiveState,SubState,Result,Type,User,MainPID,NRestarts,WatchdogUSec,ExecMainStatus
}
main_process() { systemctl show swanroam --property=MainPID --value; }
until_true() { # SECONDS COMMAND...
    local end=$((SECONDS + $1))
    shift
    until "$@" >/dev/null 2>&1; do
        ((SECONDS < end)) || { echo "not in time: $*"; return 1; }
        sleep 0.5
    done
}
daemon_changed() { [[ $(main_process) != 0 && $(main_process) != "$1" ]] && systemctl is-active --quiet swanroam; }
ready() { swanroam status | grep -q 'protected and ready to move'; }
at() { ss -Htn dst 203.0.113.9 dport = 7000 | grep -q "$1:"; }
carried() { swanroam status | grep -q 'carrying'; }
hook_said() { journalctl -t swanroam-hook --output=cat | grep -q "$1"; }
said() { journalctl -u swanroam --lines="$1" --output=cat; }
kernel() { # what is swanroam's in it
    ip rule | grep 'proto 83' | sed 's/^/rule /'
    ip -br link | grep swanroam | sed 's/^/link /'
    ip xfrm policy | grep -B1 'action block' | grep -c 'dir out' | sed 's/^/guards /'
}
confinement() { # NAME PID: what the kernel says that binds a process
    grep -E '^(Uid|Gid|Groups|NoNewPrivs|Seccomp|Cap[A-Z][a-z]+):' "/proc/$2/status" | sed "s/^/$1 /"
    sed "s/^/$1 oom_score_adj: /" "/proc/$2/oom_score_adj"
    [[ $(readlink "/proc/$2/ns/mnt") != "$(readlink /proc/1/ns/mnt)" ]] && echo "$1 has mounts of its own"
    [[ $(readlink "/proc/$2/ns/net") == "$(readlink /proc/1/ns/net)" ]] && echo "$1 has the network of the host"
    grep -E ' (/|/etc|/proc|/proc/sys|/proc/sys/net|/home|/tmp) ' "/proc/$2/mountinfo" | awk '{print $5, $6}' | sed "s/^/$1 mount: /"
}

section system
systemctl --version | head -1
uname -r
run systemctl is-system-running
systemctl --failed --no-legend --plain
cat /proc/1/comm /sys/module/apparmor/parameters/enabled
grep -E "charon|swanctl" /sys/kernel/security/apparmor/profiles

section witness
# That a call which is refused by a unit's filter is seen in the kernel's log: here by a unit with one that swanroam's refuses, too.
run systemd-run --quiet --wait --pipe -p SystemCallFilter=~@resources -p SystemCallErrorNumber=EPERM nice -n 5 true
journalctl -k --grep 'type=1326' --output=cat

section network
ip netns add peer
ip link set lo up
ip -n peer link set lo up
for pair in 'eth0 192.0.2' 'wlan0 198.51.100'; do
    read -r name net <<<"$pair"
    ip link add "$name" type veth peer name "$name" netns peer
    ip link set "$name" up
    ip -n peer link set "$name" up
    ip addr add "$net.1/24" dev "$name"
    ip -n peer addr add "$net.254/24" dev "$name"
done
ip -n peer addr add 203.0.113.9/32 dev lo
ip route add default via 192.0.2.254 metric 100
ip route add default via 198.51.100.254 metric 600
sysctl -q net.ipv4.conf.{all,eth0,wlan0}.rp_filter=0
ip netns exec peer sysctl -q net.ipv4.conf.{all,eth0,wlan0}.rp_filter=0

section charon
run systemctl restart strongswan-starter
until_true 900 swanctl --stats
stat -c '%A %U %G' /run/charon.vici
run swanctl --load-all
systemctl is-active strongswan-starter

section start
run swanroam check-config --quiet
run systemctl start swanroam
properties
systemctl status swanroam --no-pager --lines=0

section process
confinement daemon "$(main_process)"
confinement nursery "$(pgrep -f 'swanroam[.]transport' | head -1)"
stat -c '%n %a %U %G' /run/swanroam /run/swanroam/* /var/lib/swanroam /var/lib/swanroam/*

section alone
run swanroam status
run swanroam sockets
run swanroam doctor --json
section admin
run setpriv --reuid=alice --regid=alice --init-groups swanroam status
section stranger
run setpriv --reuid=bob --regid=bob --init-groups swanroam status

section peer
systemd-run --quiet --unit=peer ip netns exec peer unshare --mount bash /root/live/peer.sh
until_true 900 ip netns exec peer ss -Hltn 'sport = 7000'
run swanctl --initiate --child swanroam
run swanctl --initiate --child data
until_true 900 ready
run swanroam status
kernel

section move
systemd-run --quiet --unit=talk python3 /root/live/talk.py connect 203.0.113.9 /run/numbers
until_true 900 test -s /run/numbers
ss -Htn dst 203.0.113.9
run swanroam sockets
run swanroam move 198.51.100.1 --timeout 300
until_true 900 at 198.51.100.1
until_true 900 ready
run swanroam history last
ss -Htn dst 203.0.113.9
before=$(cat /run/numbers)
sleep 3
echo "numbers $before $(cat /run/numbers)"

networkmanager() { # One of the interfaces becomes NetworkManager's, and is taken down as its user would.
    run swanroam move 192.0.2.1 --timeout 300
    until_true 900 ready
    ip addr flush dev wlan0
    run systemctl start NetworkManager
    until_true 900 nmcli device set wlan0 managed yes
    run nmcli connection add type ethernet ifname wlan0 con-name home ipv6.method disabled ipv4.method manual \
        ipv4.addresses 198.51.100.1/24 ipv4.gateway 198.51.100.254 ipv4.route-metric 600
    until_true 300 nmcli --wait 60 connection up home # it takes a while until the device is there for it
    run swanroam move 198.51.100.1 --timeout 300
    # Without IPv6 there the control channel is deaf, and says so.
    said 100 | grep control_channel_deaf
    swanroam doctor | grep -A4 disable_ipv6
    run sysctl net.ipv6.conf.wlan0.disable_ipv6=0
    until_true 900 ready
    before=$(cat /run/numbers)
    run nmcli --wait 300 connection down home
    until_true 900 at 192.0.2.1
    until_true 900 ready
    until_true 900 hook_said 'following the routing again'
    run swanroam history last
    ss -Htn dst 203.0.113.9
    sleep 3
    echo "numbers $before $(cat /run/numbers)"
    journalctl -t swanroam-hook --output=cat
    systemctl stop NetworkManager
    ip link set wlan0 up
    ip addr add 198.51.100.1/24 dev wlan0
    ip route add default via 198.51.100.254 metric 600
    run swanroam move 198.51.100.1 --timeout 300
    until_true 900 ready
}
section networkmanager
# That of Debian 13 does not take a veth device in this guest.
! grep -q VERSION_CODENAME=bookworm /etc/os-release || networkmanager

section doctor
run swanroam doctor --json

section reload
properties
sed -i 's/readd_window: 1s/readd_window: 2s/' /etc/swanroam/swanroam.yaml
run systemctl reload swanroam
swanroam status --json | grep -A5 '"configuration"'
properties
section refused
cp /etc/swanroam/swanroam.yaml /run/good.yaml
sed -i 's/readd_window: 2s/readd_window: soon/' /etc/swanroam/swanroam.yaml
run systemctl reload swanroam
properties
run swanroam status
said 5
cp /run/good.yaml /etc/swanroam/swanroam.yaml
run systemctl reload swanroam

section restart
old=$(main_process)
run systemctl restart swanroam
until_true 900 ready
echo "other process: $([[ $(main_process) != "$old" ]] && echo yes)"
properties
kernel
echo "numbers $(cat /run/numbers)"

section watchdog
mkdir -p /run/systemd/system/swanroam.service.d
printf '[Service]\nWatchdogSec=30s\n' >/run/systemd/system/swanroam.service.d/patience.conf
systemctl daemon-reload
run systemctl restart swanroam
sleep 60 # long enough to be started anew if it did not speak
properties
old=$(main_process)
kernel >/run/before
kill -STOP "$old"
began=$SECONDS
until_true 900 daemon_changed "$old"
echo "after $((SECONDS - began)) s"
properties
said 30 | grep -E 'atchdog|systemd|signal|Main process'
until_true 900 ready
run swanroam status
kernel | diff /run/before - && echo "kernel as before"
echo "numbers $(cat /run/numbers)"
rm /run/systemd/system/swanroam.service.d/patience.conf
systemctl daemon-reload

section killed
old=$(main_process)
kernel >/run/before
kill -KILL "$old"
sleep 1
kernel | diff /run/before - && echo "kernel as before"
until_true 900 daemon_changed "$old"
until_true 900 ready
properties
echo "numbers $(cat /run/numbers)"

section carried
# A connection that is not to move keeps the old address; what it needs stays when the daemon is stopped.
sed -i 's/transport: move/transport: keep/' /etc/swanroam/swanroam.yaml
run systemctl reload swanroam
run swanroam move 192.0.2.1 --timeout 300
ip addr del 198.51.100.1/24 dev wlan0
until_true 900 carried
kernel
run systemctl stop swanroam
properties
said 5
kernel
before=$(cat /run/numbers)
sleep 3
echo "numbers $before $(cat /run/numbers)"
run systemctl start swanroam
until_true 900 carried
run swanroam status
echo "numbers $(cat /run/numbers)"

section stop
systemctl stop talk
until_true 900 ready
run swanroam status
run systemctl stop swanroam
properties
said 5
kernel

section cleanup
# By root, while nothing runs: the service gets its directories back.
run swanroam cleanup
kernel
stat -c '%n %U' /run/swanroam /var/lib/swanroam
run systemctl start swanroam
stat -c '%n %U' /run/swanroam /run/swanroam/* /var/lib/swanroam /var/lib/swanroam/*
run systemctl stop swanroam

section security
systemd-analyze security swanroam --no-pager | tail -n 1

section denied
journalctl -k --grep 'type=(1326|1400)|apparmor="DENIED"' --output=cat
section journal
journalctl -u swanroam --output=short-monotonic --no-pager
section peer-journal
journalctl -u peer --output=short-monotonic --no-pager
section kernel-log
journalctl -k --no-pager | grep -v type=1326 | tail -30
section end
sync
