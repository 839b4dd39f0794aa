#!/usr/bin/env bash
# Runs the stress test of threads without the GIL, under ThreadSanitizer. Any data race fails.
# Usage: tools/sanitize_threads.sh PREFIX [VERSION] [TESTS...]
# PREFIX is where tools/build_free_threaded.sh puts that Python, with --thread-sanitizer; it is built
# if it is not there. Everything else is in build/threads, so the working build is left alone.
set -euo pipefail
cd "$(dirname "$0")/.."

prefix=$1
version=${2:-3.14.10}
tests=("${@:3}")
[ ${#tests[@]} -gt 0 ] || tests=(tests/test_sixteen_threads.py)
python=$prefix/bin/python${version%.*}t
folder=build/threads

[ -x "$python" ] || tools/build_free_threaded.sh "$prefix" "$version" --thread-sanitizer
# Nothing of interest happens before the tests.
export TSAN_OPTIONS=report_bugs=0
if [ ! -x "$folder/env/bin/python" ]; then
    "$python" -m venv "$folder/env"
    "$folder/env/bin/python" -m pip install --quiet --disable-pip-version-check --only-binary :all: \
        cython numpy pillow platformdirs tqdm setuptools wheel pytest hypothesis psutil
fi
# Cython takes very long under ThreadSanitizer, so another Python makes the C files, at any command.
if [ ! -x "$folder/plain/bin/python" ]; then
    python3 -m venv "$folder/plain"
    "$folder/plain/bin/python" -m pip install --quiet --disable-pip-version-check --upgrade \
        cython setuptools
fi
"$folder/plain/bin/python" setup.py --quiet --version > /dev/null
IMAGEARCHIVE_SANITIZE=thread "$folder/env/bin/python" setup.py --quiet build \
    --build-base "$folder" --build-lib "$folder/package"

export TSAN_OPTIONS="suppressions=$PWD/tools/thread_sanitizer.supp history_size=4 exitcode=66"
# Without this, the modules in the working tree would be found first, those of another build.
export PYTHONSAFEPATH=1 PYTHONPATH=$PWD/$folder/package
"$folder/env/bin/python" -m pytest -q -p no:cacheprovider -s "${tests[@]}"
