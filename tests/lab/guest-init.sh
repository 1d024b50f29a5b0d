#!/bin/sh
# First process of the guest kernel. Its root is the machine's own file tree, read-only; $lab_job names the
# directory through which work comes in (job.sh; keep: directories, one a line, that must stay visible although
# /tmp and /run become empty file systems) and results go out (status, output).
export PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin HOME=/tmp LANG=C.UTF-8

finish() {
    echo "$1" >"$lab_job/status.new" && mv "$lab_job/status.new" "$lab_job/status"
    sync
    echo o >/proc/sysrq-trigger
    sleep 10 # power-off comes from a work queue; leaving first would be a panic
}

mount -t proc proc /proc
mount -t sysfs sysfs /sys
grep -q '^[^ ]* /dev ' /proc/mounts || mount -t devtmpfs devtmpfs /dev
mkdir -p /dev/pts /dev/shm
mount -t devpts devpts /dev/pts
mount -t tmpfs tmpfs /dev/shm
mount -t cgroup2 cgroup2 /sys/fs/cgroup

# Directories to keep are held open while the empty file systems go over them, then bound back.
# The directory around the job's is a file system of its own because the root is read-only; all guests of a run share it.
mount -t tmpfs tmpfs /mnt
keep=$(cat "$lab_job/keep")
IFS='
'
for kept in $keep; do
    mkdir -p "/mnt$kept" && mount --bind "$kept" "/mnt$kept"
done
exchange=${lab_job%/*}
mkdir -p /mnt/job && mount -t hostfs -o "$exchange" none /mnt/job
mount -t tmpfs tmpfs /tmp && chmod 1777 /tmp
mount -t tmpfs tmpfs /run && mkdir -p /run/lock /run/netns
for kept in $keep; do
    mkdir -p "$kept" && mount -n --move "/mnt$kept" "$kept"
done
mkdir -p "$exchange" && mount -n --move /mnt/job "$exchange"
unset IFS
umount /mnt

# The kernel's modules are not where modprobe looks, and the kernel itself calls modprobe for some.
version=$(uname -r)
guest=/tmp/guest
mkdir -p $guest/lib/modules $guest/bin
ln -s "/usr/lib/uml/modules/$version" "$guest/lib/modules/$version"
printf '#!/bin/sh\nexec /sbin/modprobe -d /tmp/guest "$@"\n' >$guest/bin/modprobe
chmod +x $guest/bin/modprobe
export PATH="$guest/bin:$PATH"
echo $guest/bin/modprobe >/proc/sys/kernel/modprobe
for module in af_packet veth dummy ipip ip6_tunnel esp4 esp6 xfrm_user gcm ccm seqiv echainiv authenc hmac \
    bridge sch_netem sch_ingress cls_matchall cls_flower cls_u32 act_skbedit act_gact tcp_diag udp_diag; do
    modprobe "$module" || { echo "guest kernel $version: module $module does not load" >&2; finish 97; }
done
modprobe -q -a xfrm4_tunnel xfrm6_tunnel act_mirred cls_fw raw_diag netlink_diag authencesn cmac
# The first SA makes the kernel put its algorithms together, which takes seconds; not in somebody's handover.
for pair in '192.0.2.1 dst 192.0.2.2' '2001:db8::1 dst 2001:db8::2'; do
    ip xfrm state add src $pair proto esp spi 1 mode transport \
        aead 'rfc4106(gcm(aes))' 0x0102030405060708090a0b0c0d0e0f1011121314 128
done
ip xfrm state flush

hostname lab
ip link set lo up
sh "$lab_job/job.sh" >"$lab_job/output" 2>&1 </dev/null
finish $?
