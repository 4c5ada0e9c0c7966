"""The machine that scripts/test-gpu runs on: its GPU, where CUDA and NCCL are, and the build."""
import glob
import os
import shutil
import subprocess
import sys

SOURCE = os.path.dirname(os.path.dirname(os.path.dirname(os.path.abspath(__file__))))
PLUGIN = os.path.join("..", "lib", "hep", "hep-cuda.so")  # of hep-run, from the folder of the programs
BENCHMARKS = ["kernels", "products", "enqueue"]


def targets():
    there = [name for name in BENCHMARKS if os.path.exists(f"{SOURCE}/tests/bench/cuda_{name}.c")]
    return ["hep-run", *(f"bench_cuda_{name}" for name in there), "device_tests"]


def output_of(command):
    try:
        return subprocess.run(command, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, check=True, text=True).stdout
    except (OSError, subprocess.CalledProcessError):
        return ""


def query(what):
    lines = output_of(["nvidia-smi", f"--query-gpu={what}", "--format=csv,noheader"]).strip().splitlines()
    return lines[0].strip() if lines else ""


def architecture():
    """For CMake: Hopper's own instructions have a name of their own."""
    number = query("compute_cap").replace(".", "")
    return f"{number}a-real" if number == "90" else f"{number}-real"


# ---- libraries ------------------------------------------------------------------------------------------------------

def python_folders():
    """Folders of NVIDIA's Python packages, which some machines have in place of the toolkit's libraries."""
    return [folder for path in sys.path if path for folder in glob.glob(os.path.join(path, "nvidia", "*"))]


def toolkit_root():
    nvcc = shutil.which("nvcc") or shutil.which("/usr/local/cuda/bin/nvcc")
    return os.path.dirname(os.path.dirname(os.path.realpath(nvcc))) if nvcc else None


def find(header, library):
    """(folder of the header, path of the library) of a Python package, or None: CMake finds the others by itself."""
    for folder in python_folders():
        headers = glob.glob(os.path.join(folder, "include", header))
        libraries = sorted(glob.glob(os.path.join(folder, "lib", library + ".so*")))
        if headers and libraries:
            return os.path.dirname(headers[0]), libraries[0]
    return None


def in_toolkit(header):
    folders = [os.path.join(toolkit_root() or "/nowhere", "include"), "/usr/include", "/usr/local/include"]
    folders += glob.glob(os.path.join(toolkit_root() or "/nowhere", "targets", "*", "include"))
    return any(os.path.exists(os.path.join(folder, header)) for folder in folders)


def library_options():
    """Options of CMake for NCCL and cuBLAS that are only there as Python packages."""
    options = []
    nccl = None if in_toolkit("nccl.h") else find("nccl.h", "libnccl")
    if nccl:
        options += [f"-DNCCL_INCLUDE={nccl[0]}", f"-DNCCL_LIBRARY={nccl[1]}"]
    blas = None if in_toolkit("cublas_v2.h") else find("cublas_v2.h", "libcublas")
    if blas:
        flags = f"-isystem {blas[0]}"
        options += [f"-DCUDA_cublas_LIBRARY={blas[1]}", f"-DCMAKE_C_FLAGS={flags}", f"-DCMAKE_CUDA_FLAGS={flags}"]
    return options


def library_path(more):
    """For programs that were built elsewhere: their own libraries, the toolkit's, those of Python packages."""
    folders = list(more)
    root = toolkit_root()
    if root:
        folders += [os.path.join(root, "lib64"), *glob.glob(os.path.join(root, "targets", "*", "lib"))]
    folders += [os.path.join(folder, "lib") for folder in python_folders()]
    folders += os.environ.get("LD_LIBRARY_PATH", "").split(":")
    return ":".join(folder for folder in folders if folder and os.path.isdir(folder))


# ---- building -------------------------------------------------------------------------------------------------------

def configure_command(source, folder, options):
    is_new = not os.path.exists(os.path.join(folder, "CMakeCache.txt"))
    generator = ["-G", "Ninja"] if is_new and shutil.which("ninja") else []
    return ["cmake", "-S", source, "-B", folder, *generator, "-DCMAKE_BUILD_TYPE=Release", "-DHEP_CUDA=ON",
            "-DHEP_MPI=OFF", "-DHEP_TESTS=ON", "-DHEP_EMULATION=OFF", *options]


def build_command(folder, targets):
    return ["cmake", "--build", folder, "-j", str(os.cpu_count() or 1), "--target", *targets]
