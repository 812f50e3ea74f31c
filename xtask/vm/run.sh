#!/bin/bash
# run.sh REPOSITORY ROOT FOLDER [KERNEL] - boots a throw-away QEMU guest (no KVM needed) with two igb
# NICs (SR-IOV, 7 VFs each) on one wire, which runs what FOLDER/command says and ends with its status.
# Without the IOMMU vfio-pci would take no VF.
# ROOT is the guest's root, read only; the repository is at its own path in it. KERNEL is a folder in
# the repository with another kernel than the root's: vmlinuz, initrd, modules.
set -euo pipefail
export repository=$1 root=$2 folder=$3 kernel=${4-}
mkdir -p "$root$repository"
# The namespaces take everything with them when we end, however that is.
exec unshare --mount --pid --fork --kill-child bash -euc '
    mount --bind "$repository" "$root$repository"
    mount -t proc proc "$root/proc"
    mount -t tmpfs tmpfs "$root/run"
    boot=(-kernel /vmlinuz)
    if [ "$kernel" ]; then
        mount --bind "$kernel/modules" "$root/usr/lib/modules"
        boot=(-kernel "$kernel/vmlinuz" -initrd "$kernel/initrd")
    fi
    [ -e "$folder/systemd" ] && names= || names=net.ifnames=0
    # 1 if it does not come as far as its init.
    boot() {
        rm -f "$root/run/fs" "$root/run/up"
        chroot "$root" /usr/libexec/virtiofsd --socket-path=/run/fs --shared-dir=/ --sandbox=none \
            --no-announce-submounts --cache=always --readonly --log-level=error &
        until [ -S "$root/run/fs" ]; do sleep 0.05; done
        # no_timer_check: a guest that a busy machine starves takes its timer for broken, and panics.
        chroot "$root" qemu-system-x86_64 -nodefaults -no-user-config -display none -serial stdio -no-reboot \
            -accel tcg,thread=multi -cpu max -smp 2 -m 3G \
            -machine q35,memory-backend=ram -object memory-backend-memfd,id=ram,size=3G,share=on \
            -device intel-iommu \
            "${boot[@]}" -append "console=ttyS0 quiet loglevel=3 panic=-1 no_timer_check intel_iommu=on iommu=pt $names root=fs rootfstype=virtiofs ro init=$repository/xtask/vm/init.sh -- $folder" \
            -chardev socket,id=fs,path=/run/fs -device vhost-user-fs-pci,chardev=fs,tag=fs \
            -device isa-debug-exit,iobase=0xf4,iosize=1 \
            -chardev file,id=up,path=/run/up -device isa-debugcon,iobase=0xe9,chardev=up \
            -netdev hubport,id=wire0,hubid=0 -device pcie-root-port,id=port0,chassis=0 \
            -device igb,bus=port0,netdev=wire0,mac=02:00:00:00:00:10,romfile= \
            -netdev hubport,id=wire1,hubid=0 -device pcie-root-port,id=port1,chassis=1 \
            -device igb,bus=port1,netdev=wire1,mac=02:00:00:00:00:20,romfile= \
            </dev/null &
        local guest=$! seconds=0
        until [ -s "$root/run/up" ] || ! kill -0 $guest 2>/dev/null; do
            sleep 1
            if [ $((seconds += 1)) = 120 ]; then
                kill -9 $guest
                wait
                return 1
            fi
        done
        status=0
        wait $guest || status=$?
    }
    # Seen once in some hundred on a busy machine: both its processors wait for an interrupt for ever.
    boot || { echo "the guest stands still and is booted again" >&2 && boot; } || exit 125
    # 2 * status + 1; an even one is of a guest that stopped without saying its status.
    [ $((status % 2)) = 1 ] || exit 125
    exit $((status / 2))
' run
