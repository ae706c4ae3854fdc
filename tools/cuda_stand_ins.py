"""Lets PyPI's torch wheel load without CUDA: an empty library in the place of each one that is missing.

The dynamic linker wants every needed file, with every version tag and every symbol that is bound at load time. So the
names are read from torch's own libraries (readelf), and for each missing file a library is compiled, beside torch's,
whose functions all say "no device". torch.cuda.is_available() is then False, and nothing but the CPU can be used.
"""
import collections
import glob
import os
import re
import subprocess
import sysconfig
import tempfile

LIB = os.path.join(sysconfig.get_paths()["purelib"], "torch", "lib")
NO_DEVICE = 100  # cudaErrorNoDevice
# The few functions that are called while torch loads, or whose result is a pointer.
BODIES = {
    "__cudaRegisterFatBinary": "void **{}(void *x) {{ static void *handle; return &handle; }}",
    "cudaGetDeviceCount": "int {}(int *n) {{ if (n) *n = 0; return 100; }}",
    "cudaGetLastError": "int {}(void) {{ return 0; }}",
    "cudaPeekAtLastError": "int {}(void) {{ return 0; }}",
    "cudaDriverGetVersion": "int {}(int *v) {{ if (v) *v = 0; return 0; }}",
    "cudaRuntimeGetVersion": "int {}(int *v) {{ if (v) *v = 13000; return 0; }}",
    "cudaGetErrorString": 'const char *{}(int e) {{ return "no CUDA: a stand-in library"; }}',
    "cudaGetErrorName": 'const char *{}(int e) {{ return "cudaErrorNoDevice"; }}',
}
# Symbols without a version tag are given to these files by the beginning of their names.
UNTAGGED = {"cusparseLt": "libcusparseLt", "cuFile": "libcufile", "nccl": "libnccl"}
# Opened by torch itself, and only when a GPU is used.
LEFT_OUT = {"libcuda.so.1"}


def tool(*command):
    return subprocess.run(command, capture_output=True, text=True, check=True).stdout


def read(library):
    """(needed files, version tag -> file, undefined [(symbol, tag)], defined symbols)"""
    needed = re.findall(r"\(NEEDED\).*\[(.+?)\]", tool("readelf", "-dW", library))
    tags, file = {}, None
    for line in tool("readelf", "-VW", library).splitlines():
        if found := re.search(r"Version: 1\s+File: (\S+)", line):
            file = found[1]
        elif (found := re.search(r"Name: (\S+)\s+Flags:.*Version: \d+", line)) and file:
            tags[found[1], file] = file
    undefined, defined = set(), set()
    for line in tool("readelf", "--dyn-syms", "-W", library).splitlines():
        cells = line.split()
        if len(cells) < 8 or not cells[0].rstrip(":").isdigit():
            continue
        symbol, _, tag = cells[7].partition("@")
        if cells[6] != "UND":
            defined.add(symbol)
        elif cells[4] != "WEAK":
            undefined.add((symbol, tag.strip("@")))
    return needed, tags, undefined, defined


def compile_stand_in(file, by_tag):
    source, script = ["typedef int not_empty;"], []
    for tag, symbols in sorted(by_tag.items()):
        source += [BODIES.get(s, "int {}(void) {{ return %d; }}" % NO_DEVICE).format(s) for s in sorted(symbols)]
        if tag:
            script.append(f"{tag} {{ global: {' '.join(s + ';' for s in sorted(symbols))} }};")
    with tempfile.TemporaryDirectory() as folder:
        c, versions = os.path.join(folder, "stand_in.c"), os.path.join(folder, "versions")
        for path, lines in ((c, source), (versions, script)):
            with open(path, "w") as out:
                out.write("\n".join(lines) + "\n")
        flags = [f"-Wl,--version-script={versions}"] if script else []
        tool("gcc", "-shared", "-fPIC", "-w", "-O1", f"-Wl,-soname,{file}", *flags, "-o", os.path.join(LIB, file), c)
    print(file, sum(map(len, by_tag.values())), "functions")


def main():
    libraries = [p for p in sorted(glob.glob(os.path.join(LIB, "*.so*"))) if os.path.getsize(p) > 100]
    needed, tag_files, undefined, defined = set(), set(), set(), set()
    for library in libraries:
        n, tags, u, d = read(library)
        needed.update(n)
        tag_files.update(tags)
        undefined |= u
        defined |= d
    here = {os.path.basename(p) for p in libraries}
    system = tool("/sbin/ldconfig", "-p")
    missing = {n for n in needed - here - LEFT_OUT if f"{n} (" not in system and not n.startswith("ld-linux")}
    wanted = {file: collections.defaultdict(set) for file in missing}
    for symbol, tag in undefined:
        for file in missing:
            untagged = not tag and symbol not in defined and any(
                symbol.startswith(prefix) and file.startswith(stem + ".") for prefix, stem in UNTAGGED.items())
            if untagged or (tag, file) in tag_files:
                wanted[file][tag].add(symbol)
    for file, by_tag in sorted(wanted.items()):
        compile_stand_in(file, by_tag)


if __name__ == "__main__":
    main()
