#!/bin/sh
# Make a root file system. Runs as root, or as root of a user namespace, in mount, pid and network namespaces of its own, so that
# whatever it mounts ends with it and no package's script reaches the network.
#
#   rootfs.sh bootstrap TREE WORK   from the packages in WORK/essential and WORK/install, onto nothing
#   rootfs.sh extend TREE WORK      the packages in WORK/install (and the files in WORK/overlay) onto what is in TREE
#   rootfs.sh remove PATH...        remove trees, whoever owns what is in them
#   rootfs.sh archive TREE MODES TAR COMMAND...   what COMMAND extracts to TREE, as a tar file
#   rootfs.sh run COMMAND...        any program, for one that has to see the owners in a tree as they are
#
# WORK/debs is the folder of package files, WORK/checks one shell command per line, WORK/sources the guest's sources.list. WORK/modes, one
# `MODE PATH` per line, is written at the end and read by `extend`: fsck.erofs changes the owner last, which takes set-id bits away.
set -eu
umask 022

# Our standard input is a pipe that only the builder holds open: when the builder is gone, so is everything here.
exec 3<&0 </dev/null
(cat <&3 >/dev/null; kill -s KILL -1) >/dev/null 2>&1 &
exec 3<&-

verb=$1
shift
case $verb in
remove) exec rm -rf -- "$@" ;;
run) exec "$@" ;;
archive)
    tree=$1 modes=$2 archive=$3
    shift 3
    "$@" >/dev/null
    while read -r mode path; do chmod "$mode" "$tree/$path"; done <"$modes"
    exec tar --create --numeric-owner --xattrs --file "$archive" --directory "$tree" .
    ;;
esac

tree=$1
work=$2
debs=$tree/tmp/debs
log=$tree/run/agentkernel.log # in memory, so that a full disk can still be told

say() { echo "stage:$1"; }

inside() {
    user=$1
    shift
    chroot --userspec="$user" "$tree" env -i PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin LC_ALL=C.UTF-8 \
        DEBIAN_FRONTEND=noninteractive DEBCONF_NONINTERACTIVE_SEEN=true HOME="$home" TMPDIR=/tmp "$@"
}

unpack_essential() {
    # The names under which packages know /bin and its like since all of them live below /usr.
    for name in bin sbin lib $([ "$(uname -m)" = x86_64 ] && echo lib64); do
        mkdir -p "$tree/usr/$name"
        ln -s "usr/$name" "$tree/$name"
    done
    while read -r deb; do
        dpkg-deb --fsys-tarfile "$work/debs/$deb" >"$work/one.tar"
        tar --extract --file "$work/one.tar" --keep-directory-symlink --directory "$tree"
    done <"$work/essential"
    rm "$work/one.tar"
    : >"$tree/var/lib/dpkg/status"
}

mount_inside() {
    mkdir -p "$tree/proc" "$tree/sys" "$tree/dev" "$tree/run" "$tree/tmp"
    mount -t proc proc "$tree/proc"
    mount -t tmpfs -o mode=0755 tmpfs "$tree/dev"
    for name in null zero full random urandom; do
        : >"$tree/dev/$name"
        mount --bind "/dev/$name" "$tree/dev/$name"
    done
    ln -s /proc/self/fd "$tree/dev/fd"
    mkdir -m 1777 "$tree/dev/shm"
    mount -t tmpfs -o mode=0755 tmpfs "$tree/run"
    mount -t tmpfs -o mode=1777 tmpfs "$tree/tmp"
    mkdir "$debs"
    mount --bind "$work/debs" "$debs"
}

configure_dpkg() {
    # force-unsafe-io: a crash throws the whole tree away, so nothing in it needs to be flushed one by one. Licences stay.
    cat >"$tree/etc/dpkg/dpkg.cfg.d/agentkernel" <<'END'
force-unsafe-io
path-exclude=/usr/share/doc/*
path-include=/usr/share/doc/*/copyright
path-exclude=/usr/share/man/*
path-exclude=/usr/share/info/*
path-exclude=/usr/share/lintian/*
path-exclude=/usr/share/locale/*
END
    printf '#!/bin/sh\nexit 101\n' >"$tree/usr/sbin/policy-rc.d" # no service is started while packages are installed
    chmod 755 "$tree/usr/sbin/policy-rc.d"
}

install_essential() {
    # Unpacked as they are, these can run; now each is installed properly, with its scripts. Their order is theirs to sort out.
    sed 's,^,/tmp/debs/,' "$work/essential" >"$tree/tmp/essential"
    inside 0:0 xargs --arg-file=/tmp/essential dpkg --install --force-depends >"$log" 2>&1 || complain
}

install_rest() {
    [ -s "$work/install" ] || return 0
    sed 's,^,/tmp/debs/,' "$work/install" >"$tree/tmp/install"
    # The status goes to our output by a descriptor of its own: it is made non-blocking, which the packages' scripts do not expect of theirs.
    inside 0:0 xargs --arg-file=/tmp/install --exit apt-get -qq -y -o APT::Status-Fd=4 -o APT::Sandbox::User=root -o Dpkg::Use-Pty=0 \
        -o Dir::Etc::SourceList=/dev/null -o Dir::Etc::SourceParts=/dev/null --no-install-recommends install 4>&1 >"$log" 2>&1 ||
        complain
}

complain() {
    tail -n 40 "$log" >&2
    return 1
}

make_user() {
    grep -q '^sandbox:' "$tree/etc/passwd" || inside 0:0 useradd --uid 1000 --user-group --create-home --shell /bin/bash sandbox
    for name in workspace scratch; do
        mkdir -p "$tree/$name"
        chown 1000:1000 "$tree/$name"
    done
}

finish() {
    # The guest's agent fills these in the overlay above.
    for name in machine-id hostname resolv.conf; do
        rm -f "$tree/etc/$name"
        : >"$tree/etc/$name"
    done
    rm -f "$tree/var/lib/dbus/machine-id"
    printf '127.0.0.1 localhost\n::1 localhost ip6-localhost ip6-loopback\n' >"$tree/etc/hosts"
    rm -f "$tree/etc/apt/sources.list.d/"*
    cp "$work/sources" "$tree/etc/apt/sources.list"
    rm -f "$tree/usr/sbin/policy-rc.d" "$tree/etc/dpkg/dpkg.cfg.d/agentkernel"
    rm -rf "$tree/var/lib/apt/lists" "$tree/var/cache/ldconfig/aux-cache" "$tree/usr/share/locale" "$tree/usr/share/man"
    mkdir -p "$tree/var/lib/apt/lists/partial" "$tree/usr/share/man/man1"
    find "$tree/var/cache/apt" "$tree/var/cache/debconf" "$tree/var/log" -type f -delete
    rm -f "$tree/etc/"*- "$tree/var/lib/dpkg/"*-old
}

restore_modes() {
    while read -r mode path; do
        chmod "$mode" "$tree/$path"
    done <"$work/modes"
}

record_modes() {
    find "$tree" -xdev -perm /7000 ! -type l -printf '%m %P\n' >"$work/modes"
}

check() {
    # As the user that commands run as, with a home that is thrown away.
    mount -t tmpfs -o uid=1000,gid=1000,mode=0755 tmpfs "$tree/home/sandbox"
    home=/home/sandbox
    while IFS= read -r command; do
        inside 1000:1000 sh -c "$command" </dev/null >"$log" 2>&1 || {
            cat "$log" >&2
            echo "this check of the recipe failed: $command" >&2
            return 1
        }
    done <"$work/checks"
}

home=/root
case $verb in
bootstrap)
    say unpack
    unpack_essential
    mount_inside
    configure_dpkg
    say essential
    install_essential
    ;;
extend)
    restore_modes
    mount_inside
    configure_dpkg
    ;;
*)
    echo "unknown verb: $verb" >&2
    exit 2
    ;;
esac
say install
install_rest
if [ -d "$work/overlay" ]; then
    cp -R "$work/overlay/." "$tree/"
fi
make_user
finish
record_modes
say check
check
