"""Compiles the native parts. All metadata is in pyproject.toml.

Environment variables:

``IMAGEARCHIVE_SANITIZE``
    A comma-separated list for ``-fsanitize=`` (``address,undefined`` or ``thread``).
``IMAGEARCHIVE_DEBUG``
    ``1`` builds with bounds and overflow checks and without optimization.
``IMAGEARCHIVE_JPEG``
    ``0`` builds without libjpeg-turbo, ``1`` fails if it is not found. By default, it is used if
    it is found.
"""

import os
import tempfile
from pathlib import Path

from Cython.Build import cythonize
from setuptools import Extension, setup
from setuptools.command.build_ext import build_ext
from setuptools.errors import CompileError

DEBUG = os.environ.get("IMAGEARCHIVE_DEBUG") == "1"
SANITIZE = os.environ.get("IMAGEARCHIVE_SANITIZE", "")
JPEG = os.environ.get("IMAGEARCHIVE_JPEG", "")

PACKAGE = Path("imagearchive")
RENDER = "imagearchive.images.render"
CRC = "imagearchive.storage.crc"
MAPPING = "imagearchive.storage.mapping"
# The extension that needs the headers of zlib.
INFLATE = "imagearchive.storage.inflate"
# The extensions with handwritten C, and its sources.
NATIVE = {
    RENDER: sorted(PACKAGE.glob("images/native/*.c")),
    CRC: [PACKAGE / "storage/native/crc.c"],
    MAPPING: [PACKAGE / "storage/native/bus_guard.c"],
}
C_SOURCES = {
    path.with_suffix("").as_posix().replace("/", "."): [] for path in PACKAGE.rglob("*.pyx")
}
C_SOURCES |= {name: [path.as_posix() for path in paths] for name, paths in NATIVE.items()}
HEADERS = sorted(PACKAGE.glob("*/native/*.h"))
DIRECTIVES = {
    "language_level": 3,
    "embedsignature": True,
    "boundscheck": DEBUG,
    "wraparound": False,
    "cdivision": True,
    "initializedcheck": DEBUG,
    "overflowcheck": DEBUG,
    "freethreading_compatible": True,
}

JPEG_PROBE = """
#include <stddef.h>
#include <stdio.h>
#include <jpeglib.h>
int main(void) {
    struct jpeg_decompress_struct decoder;
    JDIMENSION left = 0, width = 1;
    jpeg_crop_scanline(&decoder, &left, &width);
    jpeg_skip_scanlines(&decoder, 1);
    return LIBJPEG_TURBO_VERSION_NUMBER > 1005000 ? 0 : 1;
}
"""


class BuildExt(build_ext):
    """Links libjpeg-turbo to the extensions that ask for it, and compiles in parallel."""

    def finalize_options(self):
        super().finalize_options()
        self.parallel = self.parallel or os.cpu_count()

    def build_extensions(self):
        have_jpeg = self._have_jpeg()
        for extension in self.extensions:
            if extension.name == RENDER:
                extension.define_macros.append(("HAVE_JPEG", "1" if have_jpeg else "0"))
                if have_jpeg:
                    extension.libraries.append("jpeg")
            if extension.name == INFLATE:
                extension.libraries.append("z")
                self._require_zlib()
        super().build_extensions()

    def _require_zlib(self):
        with tempfile.TemporaryDirectory() as folder:
            probe = Path(folder, "probe.c")
            probe.write_text("#include <zlib.h>\n")
            try:
                self.compiler.compile([str(probe)], output_dir=folder)
            except CompileError:
                raise SystemExit(
                    "zlib.h is missing; install the headers of zlib (zlib1g-dev on Debian and "
                    "Ubuntu, zlib-devel on Fedora), or a wheel of imagearchive"
                ) from None

    def _have_jpeg(self):
        if JPEG == "0":
            return False
        with tempfile.TemporaryDirectory() as folder:
            probe = Path(folder, "probe.c")
            probe.write_text(JPEG_PROBE)
            try:
                objects = self.compiler.compile([str(probe)], output_dir=folder)
                self.compiler.link_executable(
                    objects,
                    str(Path(folder, "probe")),
                    libraries=["jpeg"],
                    extra_postargs=link_args,
                )
            except Exception:
                advice = (
                    "install its headers (libjpeg62-turbo-dev on Debian, libjpeg-turbo8-dev on "
                    "Ubuntu, jpeg-turbo in Homebrew) and build again; the compiler says above why"
                )
                if JPEG == "1":
                    raise SystemExit(
                        f"libjpeg-turbo was not found, and IMAGEARCHIVE_JPEG=1 needs it; {advice}"
                    ) from None
                self.warn(
                    f"libjpeg-turbo was not found, so JPEGs will be decoded by Pillow, more "
                    f"slowly; {advice}"
                )
                return False
        return True


compile_args = ["-O0", "-g"] if DEBUG else ["-O3", "-g0"]
compile_args += ["-Wall", "-Wextra", "-Wno-unused-parameter", "-Wno-missing-field-initializers"]
link_args = []
if SANITIZE:
    compile_args += [f"-fsanitize={SANITIZE}", "-fno-omit-frame-pointer", "-g"]
    link_args += [f"-fsanitize={SANITIZE}"]

extensions = [
    Extension(
        name,
        [name.replace(".", "/") + ".pyx", *sources],
        include_dirs=sorted({path.parent.as_posix() for path in HEADERS}),
        depends=[path.as_posix() for path in HEADERS],
        extra_compile_args=compile_args,
        extra_link_args=link_args,
        define_macros=[("CYTHON_CLINE_IN_TRACEBACK", "0")],
    )
    for name, sources in sorted(C_SOURCES.items())
]

setup(
    ext_modules=cythonize(extensions, compiler_directives=DIRECTIVES, nthreads=0),
    cmdclass={"build_ext": BuildExt},
)
