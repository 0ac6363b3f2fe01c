#!/bin/sh
# What the tests need of the system beyond `make run`: a C compiler with its sanitizers, user emulation for the other architecture,
# container engines, of which the tests start their own, and a registry, a builder and a static shell for images: no service is started here.
# Installs what is missing where it may (apt, as root), else says what to install.
set -eu
missing=
have_sanitizers() { echo 'int main(void){return 0;}' | gcc -fsanitize=address,undefined -x c -o /dev/null - 2>/dev/null; }
have_sanitizers || missing="$missing gcc libc6-dev"
command -v qemu-aarch64-static >/dev/null 2>&1 || command -v qemu-aarch64 >/dev/null 2>&1 || missing="$missing qemu-user-static"
command -v dockerd >/dev/null 2>&1 || missing="$missing docker.io"
for engine in podman crun runc; do
    command -v "$engine" >/dev/null 2>&1 || missing="$missing $engine"
done
for need in docker-registry:docker-registry buildah:buildah busybox:busybox-static; do
    command -v "${need%%:*}" >/dev/null 2>&1 || missing="$missing ${need#*:}"
done
[ -z "$missing" ] && exit 0
if [ "$(id -u)" = 0 ] && command -v apt-get >/dev/null 2>&1; then
    echo "installing for the tests:$missing" >&2
    apt-get -qq update >&2
    # The answer 101 of policy-rc.d is "do not start it" (invoke-rc.d); one that is there already is its owner's.
    policy=/usr/sbin/policy-rc.d
    if [ ! -e "$policy" ]; then
        trap 'rm -f "$policy"' EXIT
        printf '#!/bin/sh\nexit 101\n' >"$policy"
        chmod 755 "$policy"
    fi
    # shellcheck disable=SC2086
    DEBIAN_FRONTEND=noninteractive apt-get -qq install -y --no-install-recommends $missing >/dev/null
    exit 0
fi
echo "the tests need:$missing (or what your distribution calls them); install them and try again" >&2
exit 1
