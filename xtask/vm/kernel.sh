#!/bin/bash
# kernel.sh ROOT FOLDER - mmdebstrap's hook in an otherwise empty FOLDER: what a guest with ROOT boots
# the release's own kernel from, which can't mount its root without modules: vmlinuz, initrd, modules.
set -euo pipefail
root=$1
export APT_CONFIG=$MMDEBSTRAP_APT_CONFIG
cd "$2"
package=$(apt-cache depends linux-image-amd64 | sed -n 's/^ *Depends: //p' | head -n 1)
apt-get -qq -o Acquire::Retries=3 -o APT::Sandbox::User=root download "$package"
dpkg -x "$package"_*.deb unpacked
mv unpacked/boot/vmlinuz-* vmlinuz
mv unpacked/lib/modules modules
version=$(ls modules)
# The root stays as it is: the namespace takes the mount with it.
unshare --mount bash -euc 'mount --bind modules "$0/usr/lib/modules"; chroot "$0" depmod "$1"' "$root" "$version"
mkdir -p initrd.d/proc
cp "$root/usr/bin/busybox" initrd.d
names='virtio virtio_ring virtio_pci_modern_dev virtio_pci_legacy_dev virtio_pci fuse virtiofs'
for name in $names; do find modules -name "$name.ko*" -exec cp {} "initrd.d/$name" \; ; done
cat >initrd.d/init <<INIT
#!/busybox sh
for name in $names; do /busybox insmod /\$name; done
/busybox mount -t proc proc /proc
for word in \$(/busybox cat /proc/cmdline); do case \$word in init=*) init=\${word#init=} ;; esac; done
/busybox umount /proc
/busybox mount -t virtiofs -o ro fs /root
exec /busybox switch_root /root "\$init" "\$@"
INIT
chmod +x initrd.d/init
(cd initrd.d && find . | ./busybox cpio -o -H newc | gzip) >initrd
rm -r unpacked initrd.d "$package"_*.deb
