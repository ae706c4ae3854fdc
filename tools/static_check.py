#!/usr/bin/env python3
"""What ptxas made of every kernel, held to a committed table: threads, registers, shared memory, occupancy, opcodes, no spills.

    tools/static_check.py [--table FILE] OBJECT...            compare with the table; exit 1 on any difference
    tools/static_check.py [--table FILE] --write OBJECT...    write the rows of these objects anew

OBJECTs are the *.cuda.o that build.rs leaves in its OUT_DIR. The compiler is pinned (tools/install_cuda.sh) and its output
is the same from run to run, so the numbers are compared exactly: a kernel that loses its asynchronous copies or a register's
worth of occupancy shows here, without a GPU. Two faults are refused even by --write: a kernel that spills, and one that used
tensor cores in the table and no longer does.

threads   the most of a block, as the kernel's launch bounds say
shared    static shared memory in bytes, from sm_90 on with the KiB that the system keeps of every block; what a launcher adds
          at run time is not in an object
blocks    a multiprocessor holds at most so many, by registers, static shared memory and threads: dynamic shared memory, which
          only a launcher knows, can make it fewer
HMMA ..   instructions in the code: mma.sync (HMMA of bf16, QMMA of fp8, IMMA of int8) and wgmma (HGMMA, QGMMA, IGMMA); then
          ldmatrix, cp.async, TMA loads, and 128-bit accesses of global and shared memory

Environment: CUOBJDUMP, another one than that of tools/install_cuda.sh or PATH.
"""
import collections
import os
import re
import subprocess
import sys

HERE = os.path.dirname(os.path.abspath(__file__))
TABLE = os.path.join(HERE, "static_kernels.tsv")
BIN = os.path.join(HERE, "..", ".cuda", "nvidia", "cu13", "bin")
KERNELS = os.path.join(HERE, "..", "kernels")
CUOBJDUMP = os.environ.get("CUOBJDUMP", "cuobjdump")
TENSOR = ["HMMA", "QMMA", "IMMA", "HGMMA", "QGMMA", "IGMMA"]
WIDE = ["LDG.128", "STG.128", "LDS.128", "STS.128"]
COLUMNS = ["threads", "registers", "shared", "blocks"] + TENSOR + ["LDSM", "LDGSTS", "UTMALDG"] + WIDE
# Of a multiprocessor, by compute capability: blocks, warps, bytes of shared memory (CUDA C++ Programming Guide, technical
# specifications). Registers are 65,536 everywhere, handed to a warp in units of 256.
LIMITS = {"80": (32, 64, 164 << 10), "86": (16, 48, 100 << 10), "89": (24, 48, 100 << 10), "90": (32, 64, 228 << 10),
          "120": (24, 48, 100 << 10)}


def run(tool, *args):
    """What a tool of the toolkit prints; the pinned one before any other."""
    env = dict(os.environ, PATH=BIN + os.pathsep + os.environ["PATH"])
    return subprocess.run([tool, *args], capture_output=True, text=True, check=True, env=env).stdout


def name(symbol):
    """As the source says it, without namespace, hash and parameters: rms_norm_fwd, matmul<0, Tile<64, 64>>"""
    text = run("c++filt", symbol).strip()
    # The anonymous namespace's own name holds a hash of the compilation: it would differ from machine to machine.
    text = re.sub(r"\(anonymous namespace\)::|_GLOBAL__N__\w+::|\bvoid ", "", text)
    text = re.sub(r"\((?:unsigned )?\w+\)(?=-?\d)", "", text).replace("> >", ">>")  # (int)64 in template arguments
    depth = 0
    for i, c in enumerate(text):  # cut the parameter list, keep template arguments
        depth += (c == "<") - (c == ">")
        if c == "(" and depth == 0:
            return text[:i]
    return text


def blocks(gpu, threads, registers, shared):
    """Blocks of a kernel that a multiprocessor holds at once, dynamic shared memory aside."""
    most_blocks, most_warps, most_shared = LIMITS[gpu.rstrip("a")]
    warps = -(-threads // 32)
    of_a_warp = -(-registers * 32 // 256) * 256
    # Warps are spread over four partitions, each with a quarter of the registers.
    by_registers = 65536 // 4 // max(of_a_warp, 1) * 4 // warps
    # A KiB of every block is the system's; objects for sm_90 and newer count it already.
    of_a_block = shared if int(gpu.rstrip("a")) >= 90 else shared + 1024
    return min(most_blocks, most_warps // warps, by_registers, most_shared // max(of_a_block, 1024))


def opcodes(path):
    """(gpu, symbol) -> how often each instruction stands in it."""
    counts, gpu, symbol = collections.defaultdict(collections.Counter), None, None
    for line in run(CUOBJDUMP, "-sass", path).splitlines():
        if m := re.search(r"code for sm_(\w+)", line):
            gpu = m[1]
        if m := re.search(r"Function : (\S+)", line):
            symbol = m[1]
        m = re.match(r"\s+/\*[0-9a-f]{4,}\*/\s+(?:@!?U?P\w+\s+)?([A-Z][A-Z0-9_]*)((?:\.\w+)*)", line)
        if m:
            counts[gpu, symbol][m[1]] += 1
            if ".128" in m[2] and m[1] + ".128" in WIDE:
                counts[gpu, symbol][m[1] + ".128"] += 1
    return counts


def launch_bounds(path):
    """(gpu, symbol) -> the most threads of a block; absent where the kernel does not say."""
    bounds, gpu, symbol, wanted = {}, None, None, False
    for line in run(CUOBJDUMP, "-elf", path).splitlines():
        if m := re.match(r"arch = sm_(\w+)", line):
            gpu = m[1]
        if m := re.match(r"\.nv\.info\.(\S+)", line):
            symbol = m[1]
        if wanted and (m := re.search(r"Value:\s+0x(\w+) 0x(\w+) 0x(\w+)", line)):
            bounds[gpu, symbol] = int(m[1], 16) * int(m[2], 16) * int(m[3], 16)
            wanted = False
        wanted = wanted or "EIATTR_MAX_THREADS" in line
    return bounds


def measure(path):
    """(file, kernel, gpu) -> its row by column, and a line for each kernel that keeps registers in memory."""
    rows, spills, gpu, symbol = {}, [], None, None
    counts, bounds = opcodes(path), launch_bounds(path)
    for line in run(CUOBJDUMP, "-res-usage", path).splitlines():
        if m := re.search(r"^arch = sm_(\w+)", line):
            gpu = m[1]
        if m := re.search(r"Function (\S+):", line):
            symbol = m[1]
        if m := re.search(r"REG:(\d+) STACK:(\d+) SHARED:(\d+) LOCAL:(\d+)", line):
            c = counts[gpu, symbol]
            key = (os.path.basename(path).split(".")[0], name(symbol), "sm_" + gpu)
            assert key not in rows, f"two kernels are called {key}"
            registers, shared = int(m[1]), int(m[3])
            threads = bounds.get((gpu, symbol))
            if threads is None:
                sys.exit(f"{key}: the kernel has no __launch_bounds__; without it ptxas and this table guess its occupancy")
            row = [threads, registers, shared, blocks(gpu, threads, registers, shared)]
            rows[key] = dict(zip(COLUMNS, row + [c[k] for k in COLUMNS[4:]]))
            if int(m[4]) or c["STL"] or c["LDL"]:
                spills.append(f"{key}: local memory {m[4]}, stack {m[2]}, {c['STL']} STL, {c['LDL']} LDL")
    return rows, spills


def read(table):
    """The rows of a table by key; a column that it does not have is absent."""
    lines = open(table).read().splitlines() if os.path.exists(table) else []
    head = lines[0].split("\t")[3:] if lines else []
    rows = {}
    for line in lines[1:]:
        cells = line.split("\t")
        rows[tuple(cells[:3])] = {column: int(cell) for column, cell in zip(head, cells[3:])}
    return rows


def show(key, row):
    return "\t".join(list(key) + [str(row.get(column, "-")) for column in COLUMNS])


def main():
    args = sys.argv[1:]
    table = TABLE
    if "--table" in args:
        at = args.index("--table")
        table = args[at + 1]
        del args[at:at + 2]
    rows, spills = {}, []
    for path in sorted(a for a in args if not a.startswith("--")):
        r, s = measure(path)
        rows.update(r)
        spills += s
    if not rows:
        sys.exit("no kernels in the objects given")
    old = read(table)
    tensor = lambda row: sum(row.get(column, 0) for column in TENSOR)
    lost = [key for key, row in rows.items() if not tensor(row) and tensor(old.get(key, {}))]
    for key in lost:
        print(f"lost:  {key}: {tensor(old[key])} tensor-core instructions in the table, none now")
    for line in spills:
        print("spill: " + line)
    if "--write" in args and not spills and not lost:
        given = {key[0] for key in rows}
        kept = {k: row for k, row in old.items() if k[0] not in given and os.path.exists(f"{KERNELS}/{k[0]}.cu")}
        old = rows | kept
        with open(table, "w") as file:
            file.write("\n".join(["\t".join(["file", "kernel", "gpu"] + COLUMNS)]
                                 + [show(key, row) for key, row in sorted(old.items())]) + "\n")
        rows = old
    gone = sorted(show(key, row) for key, row in old.items() if rows.get(key) != row)
    new = sorted(show(key, row) for key, row in rows.items() if old.get(key) != row)
    for what, these in (("table: ", gone), ("now:   ", new)):
        for line in these:
            print(what + line)
    print(f"{len(rows)} kernels, {len(spills)} spill, {len(lost)} lost their tensor cores, {len(new)} differ from the table")
    if spills:
        sys.exit("a kernel spills registers to memory: give it fewer live values, or its block fewer threads")
    if lost:
        sys.exit("a kernel no longer uses tensor cores: look at its inner loop's types; one that is meant to has another name")
    if gone or new:
        sys.exit("if a difference is meant: `just static --write`, and say in the commit what it gains")


if __name__ == "__main__":
    main()
