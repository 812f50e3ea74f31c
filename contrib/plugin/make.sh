#!/bin/bash
# make.sh DRIVER FOLDER - makes FOLDER a managed plugin, for `docker plugin create passthrough FOLDER`.
set -euo pipefail
driver=$1 folder=$2
here=$(cd "$(dirname "$0")" && pwd)
mkdir -p "$folder"
"$here/../image/rootfs.sh" "$driver" "$folder/rootfs"
cp "$here/config.json" "$folder/config.json"
