#!/bin/bash
# make.sh DRIVER NAME:TAG ARCHIVE - packs the driver as an image, for `docker load --input ARCHIVE`. Needs no
# registry and no engine. The same driver makes the same bytes.
set -euo pipefail
driver=$1 tag=$2 archive=$3
here=$(cd "$(dirname "$0")" && pwd)
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
pack() { tar --sort=name --mtime=@0 --owner=0 --group=0 --numeric-owner -cf "$1" -C "$2" "${@:3}"; }
sum() { sha256sum "$1" | cut -d ' ' -f 1; }

"$here/rootfs.sh" "$driver" "$work/root"
mkdir "$work/image"
pack "$work/image/layer.tar" "$work/root" .
case $(uname -m) in
    x86_64) architecture=amd64 ;;
    aarch64) architecture=arm64 ;;
    *) architecture=$(uname -m) ;;
esac
version=$("$work/root/usr/bin/docker-passthrough" --version | cut -d ' ' -f 2)
# Format: the image specification of Docker, v1.2.
cat >"$work/config.json" <<JSON
{"architecture":"$architecture","os":"linux","created":"1970-01-01T00:00:00Z",
"config":{"Entrypoint":["/usr/bin/docker-passthrough"],"Cmd":["serve"],"WorkingDir":"/","StopSignal":"SIGTERM",
"Env":["PATH=/usr/bin"],
"Labels":{"org.opencontainers.image.title":"docker-passthrough","org.opencontainers.image.version":"$version","org.opencontainers.image.licenses":"Apache-2.0"}},
"rootfs":{"type":"layers","diff_ids":["sha256:$(sum "$work/image/layer.tar")"]},
"history":[{"created":"1970-01-01T00:00:00Z","created_by":"contrib/image/make.sh"}]}
JSON
config=$(sum "$work/config.json").json
mv "$work/config.json" "$work/image/$config"
printf '[{"Config":"%s","RepoTags":["%s"],"Layers":["layer.tar"]}]\n' "$config" "$tag" >"$work/image/manifest.json"
pack "$archive" "$work/image" manifest.json "$config" layer.tar
