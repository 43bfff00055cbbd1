"""Facts about this machine's processor that need no library."""

import platform
from pathlib import Path

ON_ARM = platform.machine().lower() in ("aarch64", "arm64")
ON_X86 = platform.machine().lower() in ("x86_64", "amd64")

CPU_INFO = Path("/proc/cpuinfo")
