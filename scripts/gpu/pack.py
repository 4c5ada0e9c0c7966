"""What a machine with a GPU but without the packages that a build needs brings along: plans, programs and their
libraries, and what the sources are compiled with, as one compressed file."""
import os
import re
import shutil
import subprocess
import sys

import machine
import plans

# What that machine has by itself: CUDA, NCCL, the C and C++ libraries.
THERE = re.compile(r"/(libcu|libnccl|libnv|libstdc|libgcc_s|libc\.|libm\.|libpthread|libdl\.|librt\.|ld-)")
LINKED = {"libopenblas.so.0": "libopenblas.so", "libcjson.so.1": "libcjson.so", "libz.so.1": "libz.so",
          "libnettle.so.8": "libnettle.so", "libcriterion.so.3": "libcriterion.so"}
HEADERS = ["zlib.h", "zconf.h", "cblas.h", "openblas_config.h"]
HEADER_FOLDERS = ["cjson", "criterion", "nettle"]


def needed(program):
    """Paths of the libraries that it is loaded with, and that have to be brought."""
    listed = subprocess.run(["ldd", program], stdout=subprocess.PIPE, check=True, text=True).stdout
    return [path for path in re.findall(r"=> (/\S+)", listed) if not THERE.search(path)]


def compiler_folders():
    text = subprocess.run(["cc", "-E", "-v", "-x", "c", "/dev/null"], stdout=subprocess.DEVNULL, stderr=subprocess.PIPE,
                          check=True, text=True).stderr
    folders = re.search(r"search starts here:\n(.*?)End of search", text, re.S).group(1).split()
    blas = machine.output_of(["pkg-config", "--variable=includedir", "openblas"]).strip()
    return [blas] * bool(blas) + folders


def copy_headers(target):
    folders = compiler_folders()
    for name in HEADERS + HEADER_FOLDERS:
        places = [os.path.join(folder, name) for folder in folders]
        found = next((place for place in places if os.path.exists(place)), None)
        if not found:
            sys.exit(f"scripts/test-gpu: no {name} here")
        if os.path.isdir(found):
            shutil.copytree(found, os.path.join(target, name))
        else:
            shutil.copy(found, target)


def copy_with_libraries(path, target, libraries):
    shutil.copy(path, target)
    for library in needed(path):
        if not os.path.exists(os.path.join(libraries, os.path.basename(library))):
            shutil.copy(library, libraries)


def copy_programs(built, target, libraries):
    names = [name for name in sorted(os.listdir(built)) if name.endswith("_device")]
    for name in names + [name for name in machine.targets() if name != "device_tests"]:
        copy_with_libraries(os.path.join(built, name), target, libraries)
    # Where hep-run looks for it: its own folder comes first.
    copy_with_libraries(os.path.join(built, machine.PLUGIN), target, libraries)


def make(source, file, architectures):
    """Builds and writes the file."""
    folder, built = file + ".new", os.path.join(source, "build", "gpu-pack")
    shutil.rmtree(folder, ignore_errors=True)
    for name in ("plans", "bin", "lib", "include"):
        os.makedirs(os.path.join(folder, name))
    commands = [machine.configure_command(source, built, [f"-DHEP_CUDA_ARCHITECTURES={architectures}"]),
                machine.build_command(built, [*machine.targets(), "hepc"])]
    for command in commands:
        done = subprocess.run(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, check=False, text=True)
        if done.returncode:
            sys.exit("\n".join(["scripts/test-gpu: not built:", *done.stdout.splitlines()[-20:]]))
    built = os.path.join(built, "bin")
    if not plans.make(os.path.join(built, "hepc"), os.path.join(folder, "plans")):
        sys.exit("scripts/test-gpu: a plan does not compile")
    libraries = os.path.join(folder, "lib")
    copy_programs(built, os.path.join(folder, "bin"), libraries)
    copy_headers(os.path.join(folder, "include"))
    for library, link in LINKED.items():
        os.symlink(library, os.path.join(libraries, link))
    subprocess.run(["tar", "-cJf", file, "-C", folder, "."], env={**os.environ, "XZ_OPT": "-T0"}, check=True)
    shutil.rmtree(folder)
    print(f"packed into {file}: {os.path.getsize(file) / 1e6:.1f} MB")


def unpack(path, work):
    """A folder with what is in it: itself, or where it was unpacked to."""
    if os.path.isdir(path):
        return os.path.abspath(path)
    folder = os.path.join(work, "pack")
    os.makedirs(folder)
    subprocess.run(["tar", "-xJf", path, "-C", folder], check=True)
    return folder
