#!/usr/bin/env bash
# Builds libjpeg-turbo from its release, for wheels. Usage: build_libjpeg.sh PREFIX
set -euo pipefail

prefix=$1
version=3.1.3
digest=075920b826834ac4ddf97661cc73491047855859affd671d52079c6867c1c6c0
url=https://github.com/libjpeg-turbo/libjpeg-turbo/releases/download/$version/libjpeg-turbo-$version.tar.gz

folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
cd "$folder"
curl --fail --location --silent --show-error --retry 5 --output source.tar.gz "$url"
if command -v sha256sum > /dev/null; then
    echo "$digest  source.tar.gz" | sha256sum --check
else
    echo "$digest  source.tar.gz" | shasum -a 256 --check
fi
tar xzf source.tar.gz

# Without SIMD, decoding takes several times as long, so the build must fail then.
cmake -S "libjpeg-turbo-$version" -B build -DCMAKE_BUILD_TYPE=Release \
    -DCMAKE_INSTALL_PREFIX="$prefix" -DCMAKE_INSTALL_LIBDIR=lib \
    -DENABLE_STATIC=OFF -DREQUIRE_SIMD=ON -DWITH_TURBOJPEG=OFF
cmake --build build --parallel
cmake --install build
