#!/usr/bin/env bash
# Builds CPython without the GIL from its release, to test the package where threads run in parallel.
# Usage: tools/build_free_threaded.sh PREFIX [VERSION] [--thread-sanitizer]
# It needs a C compiler and the headers of zlib, libffi, OpenSSL, and SQLite. If python.org cannot be
# reached, the same file comes from the Debian mirror that apt uses.
set -euo pipefail

prefix=$1
version=3.14.10
options=()
for argument in "${@:2}"; do
    case $argument in
        --thread-sanitizer) options+=(--with-thread-sanitizer) ;;
        *) version=$argument ;;
    esac
done
case $version in
    3.14.10) digest=de414a57119abef52784d8993e341d53aed635fc2b05c2607d9f98a2c5b72032 ;;
    3.13.5) digest=93e583f243454e6e9e4588ca2c2662206ad961659863277afcdb96801647d640 ;;
    *) echo "the digest of Python $version is not known; add it to $0" >&2; exit 1 ;;
esac

folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
cd "$folder"

# Leaves the system's own sources of packages as they are.
from_debian() {
    local mirror package=python${version%.*} root=$folder/apt
    command -v apt-get > /dev/null || return 1
    mirror=$(apt-get indextargets --format '$(REPO_URI)' 'Created-By: Packages' 'Origin: Debian' | head -1)
    mkdir -p "$root"/etc/apt/{apt.conf.d,preferences.d} "$root"/var/lib/{apt/lists/partial,dpkg}
    touch "$root/var/lib/dpkg/status"
    for suite in stable sid; do
        echo "deb-src [signed-by=/usr/share/keyrings/debian-archive-keyring.gpg] $mirror $suite main"
    done > "$root/etc/apt/sources.list"
    apt=(-qq -o "Dir=$root" -o "Dir::State::status=$root/var/lib/dpkg/status" -o APT::Sandbox::User=root)
    apt-get "${apt[@]}" update
    local revision
    revision=$(apt-cache "${apt[@]}" showsrc "$package" | sed -n "s/^Version: \($version-.*\)/\1/p" | head -1)
    apt-get "${apt[@]}" source --download-only --tar-only "$package=$revision"
    mv "${package}_$version.orig.tar.xz" source.tar.xz
}

curl --fail --location --silent --show-error --retry 2 --output source.tar.xz \
    "https://www.python.org/ftp/python/$version/Python-$version.tar.xz" || from_debian
echo "$digest  source.tar.xz" | sha256sum --check --quiet
tar xJf source.tar.xz
cd "Python-$version"
./configure --quiet --prefix="$prefix" --disable-gil --disable-test-modules "${options[@]}"
# Under ThreadSanitizer, the build runs the new interpreter, whose own reports do not matter here.
export TSAN_OPTIONS=report_bugs=0
make --silent --jobs="$(nproc)"
make --silent install
"$prefix/bin/python${version%.*}t" -VV
