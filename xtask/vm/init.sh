#!/bin/bash
# init.sh FOLDER - the guest's init: puts a tmpfs over the read-only root, mounts the usual file
# systems, loads the NICs' drivers, runs what FOLDER says and hands the status to QEMU's
# isa-debug-exit port.
export PATH=/usr/sbin:/usr/bin HOME=/root
modprobe overlay
mount -t tmpfs tmpfs /mnt
mkdir /mnt/upper /mnt/work /mnt/root
mount -t overlay -o lowerdir=/,upperdir=/mnt/upper,workdir=/mnt/work overlay /mnt/root
cd /mnt/root
pivot_root . mnt
mkdir -p var/lib/docker var/lib/containerd
mount -t proc proc proc
mount -t sysfs sysfs sys
mount -t devtmpfs dev dev
mkdir -p dev/pts dev/shm
mount -t devpts devpts dev/pts
for dir in dev/shm run var/lib/docker var/lib/containerd; do mount -t tmpfs tmpfs $dir; done
# Not over the repository, should it be there.
case $1 in /tmp/*) ;; *) mount -t tmpfs tmpfs tmp ;; esac
mount -t cgroup2 cgroup2 sys/fs/cgroup
mount -t bpf bpf sys/fs/bpf
ip link set lo up
modprobe -a igb igbvf
stty -onlcr
# Words end with NUL: the folder to start in, then VARIABLE=VALUE…, then the program and its arguments.
mapfile -d '' -t words <"$1/command"
cd "${words[0]}"
env "${words[@]:1}" 2>&1 | cat
status=${PIPESTATUS[0]}
stty onlcr # waits until the console has printed everything
printf "\\x$(printf %x $((status < 127 ? status : 127)))" | dd of=/dev/port bs=1 seek=$((0xf4)) status=none
