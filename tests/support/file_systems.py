"""Processes on a file system that refuses something, played by a library in front of the C library."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

# Each refusal is switched on by a variable of the environment that holds the error's number.
_SHIM = r"""
#define _GNU_SOURCE
#include <dlfcn.h>
#include <errno.h>
#include <fcntl.h>
#include <stdarg.h>
#include <stdlib.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <unistd.h>

static int refused(const char *name) {
  const char *number = getenv(name);
  if (!number) return 0;
  errno = atoi(number);
  return 1;
}

int fsync(int fd) {
  static int (*real)(int);
  struct stat s;
  if (!fstat(fd, &s) && refused(S_ISDIR(s.st_mode) ? "NO_FOLDER_SYNC" : "NO_FILE_SYNC")) return -1;
  if (!real) real = dlsym(RTLD_NEXT, "fsync");
  return real(fd);
}

/* Libraries of programs are mapped privately, so that only shared maps of files under a path are refused. */
static int is_shared(int flags, int fd) {
  char link[64], path[4096];
  const char *below = getenv("NO_MAPS_BELOW");
  ssize_t n;
  if (!below || fd < 0 || !(flags & MAP_SHARED)) return 0;
  snprintf(link, sizeof link, "/proc/self/fd/%d", fd);
  n = readlink(link, path, sizeof path - 1);
  if (n < 0) return 0;
  path[n] = 0;
  return !strncmp(path, below, strlen(below));
}

void *mmap(void *at, size_t n, int protection, int flags, int fd, off_t offset) {
  static void *(*real)(void *, size_t, int, int, int, off_t);
  if (is_shared(flags, fd)) { errno = ENODEV; return MAP_FAILED; }
  if (!real) real = dlsym(RTLD_NEXT, "mmap");
  return real(at, n, protection, flags, fd, offset);
}
void *mmap64(void *at, size_t n, int protection, int flags, int fd, off_t offset) {
  return mmap(at, n, protection, flags, fd, offset);
}

static int lock_or_not(const char *name, int fd, int command, void *argument) {
  int (*real)(int, int, ...) = dlsym(RTLD_NEXT, name);
  if ((command == F_SETLK || command == F_SETLKW) && refused("NO_LOCKS")) return -1;
  return real(fd, command, argument);
}
int fcntl(int fd, int command, ...) {
  va_list more; va_start(more, command); void *argument = va_arg(more, void *); va_end(more);
  return lock_or_not("fcntl", fd, command, argument);
}
int fcntl64(int fd, int command, ...) {
  va_list more; va_start(more, command); void *argument = va_arg(more, void *); va_end(more);
  return lock_or_not("fcntl64", fd, command, argument);
}

int link(const char *from, const char *to) {
  return refused("NO_LINKS") ? -1 : linkat(AT_FDCWD, from, AT_FDCWD, to, 0);
}
int symlink(const char *from, const char *to) {
  return refused("NO_LINKS") ? -1 : symlinkat(from, AT_FDCWD, to);
}
"""


def build_shim(folder: Path) -> Path:
    """Compile the library; the test is skipped where that isn't possible."""
    if sys.platform != "linux" or shutil.which("gcc") is None:
        pytest.skip("needs Linux and gcc")
    source, library = folder / "shim.c", folder / "shim.so"
    source.write_text("#include <stdio.h>\n#include <string.h>\n" + _SHIM)
    subprocess.run(["gcc", "-w", "-shared", "-fPIC", "-o", str(library), str(source), "-ldl"], check=True)
    return library


def run_python(
    library: Path, script: str, *arguments: object, **refusals: object
) -> subprocess.CompletedProcess[str]:
    """Run a script in a process to which the file system refuses what ``refusals`` names."""
    environment = {
        **os.environ,
        "LD_PRELOAD": str(library),
        "PYTHONPATH": os.pathsep.join(sys.path),
        **{name: str(value) for name, value in refusals.items()},
    }
    return subprocess.run(
        [sys.executable, "-c", script, *map(str, arguments)],
        capture_output=True,
        text=True,
        env=environment,
        timeout=120,
    )
