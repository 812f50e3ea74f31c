#!/bin/bash
# init.sh FOLDER - the guest's init: puts a tmpfs over the read-only root, mounts the usual file
# systems, loads the NICs' drivers, runs what FOLDER says and hands the status to QEMU's
# isa-debug-exit port. Where there is FOLDER/systemd, all but the first is systemd's: the rest is run by
# a unit, init.sh FOLDER under-systemd.
export PATH=/usr/sbin:/usr/bin HOME=/root

# A byte for one of QEMU's ports.
tell() { printf "\\x$(printf %x "$2")" | dd of=/dev/port bs=1 seek=$(($1)) status=none; }

work() {
    ip link set lo up
    modprobe -a igb igbvf
    stty -onlcr
    # Words end with NUL: the folder to start in, then VARIABLE=VALUE…, then the program and its arguments.
    mapfile -d '' -t words <"$1/command"
    cd "${words[0]}"
    env "${words[@]:1}" 2>&1 | cat
    status=${PIPESTATUS[0]}
    stty onlcr # waits until the console has printed everything
    tell 0xf4 $((status < 127 ? status : 127))
}

if [ "$2" = under-systemd ]; then
    work "$1"
    exit
fi
modprobe overlay
mount -t tmpfs tmpfs /mnt
mkdir /mnt/upper /mnt/work /mnt/root
mount -t overlay -o lowerdir=/,upperdir=/mnt/upper,workdir=/mnt/work overlay /mnt/root
cd /mnt/root
pivot_root . mnt
mount -t devtmpfs dev dev
tell 0xe9 1 # it is up
mkdir -p var/lib/docker var/lib/containerd
for dir in var/lib/docker var/lib/containerd; do mount -t tmpfs tmpfs $dir; done
if [ -e "$1/systemd" ]; then
    # Nobody is to log in, nor to mount anything over the repository, should it be there.
    for unit in serial-getty@ttyS0.service tmp.mount; do ln -s /dev/null etc/systemd/system/$unit; done
    cat >etc/systemd/system/work.service <<UNIT
[Unit]
After=multi-user.target
IgnoreOnIsolate=yes
[Service]
Type=oneshot
ExecStart=/bin/bash $0 $1 under-systemd
StandardInput=tty
StandardOutput=tty
TTYPath=/dev/ttyS0
UNIT
    mkdir -p etc/systemd/system/graphical.target.wants
    ln -s ../work.service etc/systemd/system/graphical.target.wants/
    exec chroot . /usr/lib/systemd/systemd --system
fi
mount -t proc proc proc
mount -t sysfs sysfs sys
mkdir -p dev/pts dev/shm
mount -t devpts devpts dev/pts
for dir in dev/shm run; do mount -t tmpfs tmpfs $dir; done
# Not over the repository, should it be there.
case $1 in /tmp/*) ;; *) mount -t tmpfs tmpfs tmp ;; esac
mount -t cgroup2 cgroup2 sys/fs/cgroup
mount -t bpf bpf sys/fs/bpf
work "$1"
