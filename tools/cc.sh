#!/bin/sh
# Prints the command that compiles a static C program for an architecture (x86_64, aarch64).
# musl-gcc or gcc where present and native, else zig from the PyPI package `ziglang` (AGENTKERNEL_PYTHON names the interpreter that has it).
set -eu
arch=${1:-$(uname -m)}
python=${AGENTKERNEL_PYTHON:-python3}
can_link() { printf 'int main(void){return 0;}' | "$@" -static -x c -o /dev/null - 2>/dev/null; }
if [ "$arch" = "$(uname -m)" ] && [ -z "${AGENTKERNEL_FORCE_ZIG:-}" ]; then
    for cc in musl-gcc gcc; do
        if command -v "$cc" >/dev/null 2>&1 && can_link "$cc"; then echo "$cc"; exit 0; fi
    done
fi
if "$python" -m ziglang version >/dev/null 2>&1; then
    echo "$python -m ziglang cc -target $arch-linux-musl"; exit 0
fi
echo "no C compiler for $arch: install gcc (with libc6-dev) or musl-tools, or 'pip install ziglang'" >&2
exit 1
