#!/bin/bash
# rootfs.sh DRIVER FOLDER - makes FOLDER a root for a container: the driver, the libraries that it is linked
# with, as this machine has them, and nothing else.
set -euo pipefail
driver=$1 root=$2
mkdir -p "$root"/{dev,etc,proc,run/docker/plugins,sys,tmp,var/lib/docker-passthrough}
# Docker's own socket is looked for below it.
ln -s ../run "$root/var/run"
install -D -m 755 "$driver" "$root/usr/bin/docker-passthrough"
if command -v strip >/dev/null; then strip "$root/usr/bin/docker-passthrough"; fi
# Of a static one it says so, and has no paths.
{ ldd "$driver" 2>&1 || true; } | grep -o '/[^ ]*' | sort -u | while read -r library; do
    [ "$library" = "$driver:" ] || install -D -m 755 "$(realpath "$library")" "$root$library"
done
# The licences of what is linked into it, where the caller has them.
[ -z "${NOTICES:-}" ] || install -D -m 644 "$NOTICES" "$root/usr/share/doc/docker-passthrough/third-party.txt"
"$root/usr/bin/docker-passthrough" --version >/dev/null
