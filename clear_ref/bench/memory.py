"""The growth of this process's resident memory during a call (Linux)."""

import gc
from collections.abc import Callable
from pathlib import Path
from typing import Any


def growth(call: Callable[[], object]) -> dict[str, Any]:
    """{bytes, how}: the peak of resident memory while `call` runs, minus what is resident before.

    how  says if the peak could be reset; if not, the growth is a lower bound
    """
    gc.collect()
    try:
        Path("/proc/self/clear_refs").write_text("5", encoding="ascii")
        how = "VmHWM, reset"
        before = _status("VmRSS")
    except OSError:
        how = "VmHWM, not reset: at least"
        before = _status("VmHWM")
    call()
    return {"bytes": max(_status("VmHWM") - before, 0), "how": how}


def _status(key: str) -> int:
    """Bytes of one line of /proc/self/status."""
    for line in Path("/proc/self/status").read_text(encoding="ascii").splitlines():
        if line.startswith(key + ":"):
            return int(line.split()[1]) * 1024
    raise OSError(f"/proc/self/status has no line {key}")
