#!/bin/sh
# bpf-rustc.sh RUSTC ARGUMENT... - cargo's RUSTC_WRAPPER for BPF crates.
# Cargo derives `-C metadata` from the folder that the source is in, and rustc the names of functions
# from that. A fixed one makes the object the same from any folder; crates differ by their names.
case " $* " in
*" --target bpfel-unknown-none "*)
    for word do
        shift
        case $word in
        metadata=*) word=metadata=docker-passthrough ;;
        esac
        set -- "$@" "$word"
    done
    ;;
esac
exec "$@"
