"""Installs the package and compiles the kernel of the token terms; see pyproject.toml for the rest.

CLEAR_REF_NATIVE      auto (default): compile where there is a C++ compiler; on: fail without one;
                      off: install without the kernel
CLEAR_REF_CUDA        auto (default): compile the CUDA part where there is nvcc; on: fail without
                      it; off: leave it out
CLEAR_REF_CUDA_ARCHS  compute capabilities with commas; default: the first of each major version
                      that nvcc supports. PTX of the last one is added
CXX, NVCC             the compilers (default: c++, nvcc)
CLEAR_REF_CXXFLAGS    further flags for every C++ compilation and the link, such as
                      -fsanitize=address
"""

import os
import platform
import re
import shlex
import shutil
import subprocess
import sys
import sysconfig
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from setuptools import Extension, find_packages, setup
from setuptools.command.build_ext import build_ext

CSRC = Path("csrc")

# Flags of each instruction set; -O3 lets the compiler vectorise the portable loops.
CPU = {"baseline": ["-O3"]}
if platform.machine().lower() in ("x86_64", "amd64"):
    avx2 = ["-O2", "-mavx2", "-mfma", "-mf16c"]
    CPU["avx2"] = avx2
    CPU["avx512"] = [*avx2, "-mavx512f", "-mavx512bw", "-mavx512dq", "-mavx512vl"]

# -ffp-contract=off: a multiplication and an addition are fused only where lanes.h says so. If not,
# instruction sets would give different results.
CXX_FLAGS = [
    "-std=c++17",
    "-fPIC",
    "-fvisibility=hidden",
    "-ffp-contract=off",
    "-fno-math-errno",
    "-DNDEBUG",
]
NVCC_FLAGS = ["-O3", "-std=c++17", "-Xcompiler", "-fPIC,-fvisibility=hidden", "--threads", "2"]
FIRST_OF_EACH_MAJOR = ("75", "80", "90", "100", "110", "120")


def switch_value(name: str) -> str:
    """The value of an environment variable: auto, on or off."""
    value = os.environ.get(name, "auto")
    if value not in ("auto", "on", "off"):
        sys.exit(f"{name} is {value!r}; expected auto, on or off")
    return value


def compiler(variable: str, default: str, switch: str, what: str) -> list[str] | None:
    """The command of a compiler; None if it is switched off or not installed.

    Ends the build if it is switched on and not installed.
    """
    wanted = switch_value(switch)
    command = shlex.split(os.environ.get(variable) or default)
    if wanted == "off" or not command:
        return None
    if shutil.which(command[0]):
        return command
    if wanted == "on":
        sys.exit(
            f"{switch}=on, but {command[0]} was not found; expected {what}: "
            f"install it or set {variable}"
        )
    print(f"clear_ref: {command[0]} not found, {what} is left out", file=sys.stderr)
    return None


CXX = compiler("CXX", "c++", "CLEAR_REF_NATIVE", "the compiled token-terms kernel")
NVCC = None
if CXX:
    NVCC = compiler("NVCC", "nvcc", "CLEAR_REF_CUDA", "the CUDA part of the kernel")


def run(command: list[str]) -> None:
    """Runs a compiler and prints its output; ends the build if it fails."""
    done = subprocess.run(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)
    print(shlex.join(command) + "\n" + done.stdout, file=sys.stderr)
    if done.returncode:
        sys.exit(
            f"clear_ref: {command[0]} failed (status {done.returncode}); CLEAR_REF_NATIVE=off "
            "installs without the kernel, CLEAR_REF_CUDA=off without its CUDA part"
        )


def cuda_targets(nvcc: list[str]) -> list[str]:
    """Compute capabilities to compile for: those asked for, or the first of each major version."""
    words = re.split("[,; ]+", os.environ.get("CLEAR_REF_CUDA_ARCHS", ""))
    asked = [word for word in words if word]
    for word in asked:
        if not re.fullmatch(r"\d{2,3}[af]?", word):
            sys.exit(
                f"CLEAR_REF_CUDA_ARCHS has {word!r}; expected compute capabilities such as 80,90"
            )
    if asked:
        return asked
    listed = subprocess.run([*nvcc, "--list-gpu-code"], capture_output=True, text=True, check=True)
    supported = listed.stdout.split()
    return [target for target in FIRST_OF_EACH_MAJOR if f"sm_{target}" in supported]


class BuildKernel(build_ext):
    """Compiles one object for each instruction set and one for CUDA, and links them to one module.

    torch's headers and libraries are not used.
    """

    def build_extension(self, extension: Extension) -> None:
        """Compiles and links."""
        objects, module = Path(self.build_temp), Path(self.get_ext_fullpath(extension.name))
        objects.mkdir(parents=True, exist_ok=True)
        module.parent.mkdir(parents=True, exist_ok=True)
        more_flags = shlex.split(os.environ.get("CLEAR_REF_CXXFLAGS", ""))
        targets = cuda_targets(NVCC) if NVCC else []
        commands = compile_commands(targets, more_flags)
        with ThreadPoolExecutor(os.cpu_count()) as pool:
            # In reverse order, because the CUDA part takes longest.
            running = [
                pool.submit(run, [*command, "-o", str(objects / name)])
                for name, command in reversed(commands.items())
            ]
            for future in running:
                future.result()
        names = [str(objects / name) for name in commands]
        run([*link_command(targets, more_flags), *names, "-o", str(module)])


def compile_commands(targets: list[str], more_flags: list[str]) -> dict[str, list[str]]:
    """{name of an object: the command that compiles it, without its output}."""
    import pybind11  # installed for the build alone

    compile_cxx = [*CXX, *CXX_FLAGS, *more_flags, "-c"]
    includes = [f"-I{pybind11.get_include()}", f"-I{sysconfig.get_path('include')}"]
    defines = [f"-DWITH_{name.upper()}" for name in CPU if name != "baseline"]
    if targets:
        defines.append(f'-DWITH_CUDA="{",".join(targets)}"')
    commands = {}
    for name, flags in CPU.items():
        define = f"-DINSTRUCTION_SET={name}"
        source = str(CSRC / "token_terms_cpu.cpp")
        commands[f"{name}.o"] = [*compile_cxx, *flags, define, source]
    bindings, dispatch = str(CSRC / "bindings.cpp"), str(CSRC / "dispatch.cpp")
    commands["bindings.o"] = [*compile_cxx, "-O1", *includes, *defines, bindings]
    commands["dispatch.o"] = [*compile_cxx, "-O2", *defines, dispatch]
    if targets:
        codes = [f"-gencode=arch=compute_{target},code=sm_{target}" for target in targets]
        codes.append(f"-gencode=arch=compute_{targets[-1]},code=compute_{targets[-1]}")
        source = str(CSRC / "token_terms_cuda.cu")
        commands["cuda.o"] = [*NVCC, *NVCC_FLAGS, *codes, "-c", source]
    return commands


def link_command(targets: list[str], more_flags: list[str]) -> list[str]:
    """The command that links the objects, without objects and output."""
    system = ["-undefined", "dynamic_lookup"] if sys.platform == "darwin" else []
    if not targets:
        return [*CXX, "-shared", "-pthread", *more_flags, *system]
    # nvcc links its own runtime statically: the module can be imported without a GPU driver.
    host_flags = ["-Xcompiler", ",".join(more_flags)] if more_flags else []
    return [*NVCC, "-shared", "--cudart", "static", *host_flags, *system]


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
            "oracle/diff/causes/causes.json",
            "loop/mini_sweeps/*.csv",
            "data/texts/*.txt",
            "mini/world/**/*",
            "mini/base/*",
            "mini/gold/*",
            "mini/start/*",
            "mini/sources/**/*",
            "oracle/suite/FORMAT.md",
            "oracle/suite/schema.json",
            "oracle/suite/LICENSE",
            "oracle/suite/read_suite.mjs",
            "py.typed",
        ]
    },
    ext_modules=[KERNEL] if CXX else [],
    cmdclass={"build_ext": BuildKernel},
)
