"""Installs the package with the embedded world beside its code and compiles the token-terms kernel (else: pyproject.toml).

CLEAR_REF_NATIVE      auto (default): compile where there is a C++ compiler; on: fail without one; off: install pure Python
CLEAR_REF_CUDA        auto (default): compile the CUDA part where nvcc is found; on: fail without it; off: leave it out
CLEAR_REF_CUDA_ARCHS  compute capabilities with commas (default: every major one nvcc knows), PTX of the last is added
CXX, NVCC             the compilers (default: c++, nvcc)
CLEAR_REF_CXXFLAGS    further flags for every C++ compilation and the link, such as -fsanitize=address
"""

import os
import platform
import re
import shlex
import shutil
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from setuptools import Extension, find_packages, setup
from setuptools.command.build_ext import build_ext

CSRC = Path("csrc")
CPU = {
    "baseline": ["-O3"]
}  # instruction set: flags; -O3 lets the compiler vectorise the portable loops
if platform.machine().lower() in ("x86_64", "amd64"):
    avx2 = ["-O2", "-mavx2", "-mfma", "-mf16c"]
    CPU |= {"avx2": avx2, "avx512": [*avx2, "-mavx512f", "-mavx512bw", "-mavx512dq", "-mavx512vl"]}
# No contraction: a multiply and an add are fused where lanes.h says so and nowhere else, so that instruction sets agree.
CXX_FLAGS = [
    "-std=c++17",
    "-fPIC",
    "-fvisibility=hidden",
    "-ffp-contract=off",
    "-fno-math-errno",
    "-DNDEBUG",
]
OLDEST_MAJORS = ("75", "80", "90", "100", "110", "120")


def choice(name: str) -> str:
    """The environment's auto, on or off."""
    value = os.environ.get(name, "auto")
    if value not in ("auto", "on", "off"):
        sys.exit(f"{name} is {value!r}; expected auto, on or off")
    return value


def tool(variable: str, default: str, switch: str, what: str) -> list[str] | None:
    """The command of a compiler, or None where it is switched off or absent; ends the build where it was asked for."""
    wanted = choice(switch)
    command = shlex.split(os.environ.get(variable) or default)
    if wanted == "off" or not command:
        return None
    if shutil.which(command[0]):
        return command
    if wanted == "on":
        sys.exit(
            f"{switch}=on, but {command[0]} was not found; expected {what}: install it or set {variable}"
        )
    print(f"clear_ref: {command[0]} not found, {what} is left out", file=sys.stderr)
    return None


CXX = tool("CXX", "c++", "CLEAR_REF_NATIVE", "the compiled token-terms kernel")
NVCC = CXX and tool("NVCC", "nvcc", "CLEAR_REF_CUDA", "the CUDA part of the kernel")


def run(command: list[str]) -> None:
    """Run a compiler; ends the build with its whole output where it fails."""
    done = subprocess.run(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)
    print(shlex.join(command) + "\n" + done.stdout, file=sys.stderr)
    if done.returncode:
        sys.exit(
            f"clear_ref: {command[0]} failed (status {done.returncode}); CLEAR_REF_NATIVE=off installs without the kernel, "
            "CLEAR_REF_CUDA=off without its CUDA part"
        )


def cuda_targets() -> list[str]:
    """Compute capabilities to compile for: those asked for, or the first of each major one that nvcc knows."""
    asked = [
        part for part in re.split("[,; ]+", os.environ.get("CLEAR_REF_CUDA_ARCHS", "")) if part
    ]
    if wrong := [part for part in asked if not re.fullmatch(r"\d{2,3}[af]?", part)]:
        sys.exit(
            f"CLEAR_REF_CUDA_ARCHS holds {wrong[0]!r}; expected compute capabilities such as 80,90"
        )
    known = subprocess.run(
        [*NVCC, "--list-gpu-code"], capture_output=True, text=True, check=True
    ).stdout
    return asked or [major for major in OLDEST_MAJORS if f"sm_{major}\n" in known + "\n"]


class BuildKernel(build_ext):
    """One object for each instruction set, one for CUDA, linked into one module without torch's headers or libraries."""

    def build_extension(self, extension):
        import sysconfig

        import pybind11

        objects, out = Path(self.build_temp), Path(self.get_ext_fullpath(extension.name))
        objects.mkdir(parents=True, exist_ok=True)
        out.parent.mkdir(parents=True, exist_ok=True)
        more = shlex.split(os.environ.get("CLEAR_REF_CXXFLAGS", ""))
        includes = [f"-I{pybind11.get_include()}", f"-I{sysconfig.get_path('include')}"]
        targets = cuda_targets() if NVCC else []
        defines = [f"-DWITH_{name.upper()}" for name in CPU if name != "baseline"]
        defines += [f'-DWITH_CUDA="{",".join(targets)}"'] if targets else []
        compile_cxx = [*CXX, *CXX_FLAGS, *more, "-c"]
        commands = {
            f"{name}.o": [
                *compile_cxx,
                *flags,
                f"-DINSTRUCTION_SET={name}",
                str(CSRC / "token_terms_cpu.cpp"),
            ]
            for name, flags in CPU.items()
        }
        commands |= {
            "bindings.o": [*compile_cxx, "-O1", *includes, *defines, str(CSRC / "bindings.cpp")],
            "dispatch.o": [*compile_cxx, "-O2", *defines, str(CSRC / "dispatch.cpp")],
        }
        if targets:
            codes = [f"-gencode=arch=compute_{target},code=sm_{target}" for target in targets]
            codes.append(f"-gencode=arch=compute_{targets[-1]},code=compute_{targets[-1]}")
            commands["cuda.o"] = [
                *NVCC,
                "-O3",
                "-std=c++17",
                "-Xcompiler",
                "-fPIC,-fvisibility=hidden",
                "--threads",
                "2",
                *codes,
                "-c",
                str(CSRC / "token_terms_cuda.cu"),
            ]
        with ThreadPoolExecutor(os.cpu_count()) as pool:
            list(
                pool.map(
                    run,
                    [
                        [*command, "-o", str(objects / name)]
                        for name, command in reversed(commands.items())
                    ],
                )
            )
        # nvcc links its own runtime statically: the module then imports on a machine without a driver.
        link = (
            [
                *NVCC,
                "-shared",
                "--cudart",
                "static",
                *(["-Xcompiler", ",".join(more)] if more else []),
            ]
            if targets
            else [*CXX, "-shared", "-pthread", *more]
        )
        system = ["-undefined", "dynamic_lookup"] if sys.platform == "darwin" else []
        run([*link, *system, *(str(objects / name) for name in commands), "-o", str(out)])


KERNEL = Extension(
    "clear_ref.losses._token_terms",
    sorted(str(path) for path in CSRC.glob("*.c*")),
    depends=sorted(str(path) for path in CSRC.glob("*.h")),
)
setup(
    packages=find_packages(include=["clear_ref", "clear_ref.*"]),
    package_data={
        "clear_ref": [
            "data/schema.json",
            "data/texts/*.txt",
            "mini/world/**/*",
            "mini/base/*",
            "mini/gold/*",
            "mini/sources/**/*",
            "py.typed",
        ]
    },
    ext_modules=[KERNEL] if CXX else [],
    cmdclass={"build_ext": BuildKernel},
)
