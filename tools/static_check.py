#!/usr/bin/env python3
"""What ptxas made of every kernel, held to a committed table: registers, shared memory, tensor-core opcodes, no spills.

    tools/static_check.py OBJECT...            compare with tools/static_kernels.tsv; exit 1 on any difference or spill
    tools/static_check.py --write OBJECT...    write the rows of these objects anew

OBJECTs are the *.cuda.o that build.rs leaves in its OUT_DIR. The compiler is pinned (tools/install_cuda.sh) and its output
is the same from run to run, so the numbers are compared exactly: a kernel that loses its HMMA, its asynchronous copies or
a register's worth of occupancy shows here, without a GPU.
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
COLUMNS = ["registers", "shared", "HMMA", "LDSM", "LDGSTS", "LDG.128", "STG.128"]


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


def measure(path):
    """(file, kernel, gpu) -> its row, and a line for each kernel that keeps registers in memory."""
    rows, spills, gpu, symbol = {}, [], None, None
    counts = collections.defaultdict(collections.Counter)
    for line in run("cuobjdump", "-sass", path).splitlines():
        if m := re.search(r"code for sm_(\w+)", line):
            gpu = m[1]
        if m := re.search(r"Function : (\S+)", line):
            symbol = m[1]
        m = re.match(r"\s+/\*[0-9a-f]{4,}\*/\s+(?:@!?U?P\w+\s+)?([A-Z][A-Z0-9_]*)((?:\.[A-Z0-9_]+)*)", line)
        if m:
            counts[gpu, symbol][m[1]] += 1
            if m[1] in ("LDG", "STG") and ".128" in m[2]:
                counts[gpu, symbol][m[1] + ".128"] += 1
    for line in run("cuobjdump", "-res-usage", path).splitlines():
        if m := re.search(r"^arch = sm_(\w+)", line):
            gpu = m[1]
        if m := re.search(r"Function (\S+):", line):
            symbol = m[1]
        if m := re.search(r"REG:(\d+) STACK:(\d+) SHARED:(\d+) LOCAL:(\d+)", line):
            c = counts[gpu, symbol]
            stem = os.path.basename(path).split(".")[0]
            key = (stem, name(symbol), "sm_" + gpu)
            assert key not in rows, f"two kernels are called {key}"
            rows[key] = [int(m[1]), int(m[3])] + [c[k] for k in COLUMNS[2:]]
            if int(m[4]) or c["STL"] or c["LDL"]:
                spills.append(f"{key}: local memory {m[4]}, stack {m[2]}, {c['STL']} STL, {c['LDL']} LDL")
    return rows, spills


def main():
    write = "--write" in sys.argv
    rows, spills = {}, []
    for path in sorted(a for a in sys.argv[1:] if not a.startswith("--")):
        r, s = measure(path)
        rows.update(r)
        spills += s
    if not rows:
        sys.exit("no kernels in the objects given")
    lines = ["\t".join(list(k) + [str(x) for x in v]) for k, v in rows.items()]
    old = open(TABLE).read().splitlines()[1:] if os.path.exists(TABLE) else []
    if write:
        given = {key[0] for key in rows}
        stem = lambda line: line.split("\t")[0]
        keep = [l for l in old if stem(l) not in given and os.path.exists(f"{KERNELS}/{stem(l)}.cu")]
        old = lines = sorted(lines + keep)
        with open(TABLE, "w") as table:
            table.write("\n".join(["\t".join(["file", "kernel", "gpu"] + COLUMNS)] + lines) + "\n")
    gone, new = sorted(set(old) - set(lines)), sorted(set(lines) - set(old))
    for what, these in (("spill: ", spills), ("table: ", gone), ("now:   ", new)):
        for line in these:
            print(what + line)
    print(f"{len(rows)} kernels, {len(spills)} spill, {len(new)} differ from tools/static_kernels.tsv")
    if spills:
        sys.exit("a kernel spills registers to memory: give it fewer live values, or its block fewer threads")
    if gone or new:
        sys.exit("if a difference is meant: `just static --write`, and say in the commit what it gains")


if __name__ == "__main__":
    main()
