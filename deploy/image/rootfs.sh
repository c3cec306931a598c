#!/bin/sh
# Makes the root of a container image that holds one program and nothing else: its libraries, certificate authorities, an unprivileged
# user and empty folders to write to.
# Usage: rootfs.sh PROGRAM DIR
set -eu
program=$1
root=$2

mkdir -p "$root/usr/bin" "$root/etc/ssl/certs" "$root/tmp" "$root/var/cache/weir"
install -m 755 "$program" "$root/usr/bin/weir"
# The libraries and the dynamic linker, at the paths where the linker looks for them.
ldd "$program" | grep -o '/[^ )]*' | while read -r library; do
    mkdir -p "$root$(dirname "$library")"
    cp -L "$library" "$root$library"
done
cp -L /etc/ssl/certs/ca-certificates.crt "$root/etc/ssl/certs/"
echo 'weir:x:65532:65532:weir:/var/cache/weir:/sbin/nologin' > "$root/etc/passwd"
echo 'weir:x:65532:' > "$root/etc/group"
chmod 1777 "$root/tmp" "$root/var/cache/weir"
