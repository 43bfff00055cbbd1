"""Facts about this machine's processor that need no library."""

import platform
from pathlib import Path

ARM, X86 = ("aarch64", "arm64"), ("x86_64", "amd64")
ON_ARM = platform.machine().lower() in ARM

CPU_INFO = Path("/proc/cpuinfo")
