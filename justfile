# `just check` is what CI runs beside the README's commands. Each line is one command.

check: format lint bindings-current checked lanewise demo memory-page static

format:
    cargo fmt --check

lint:
    cargo clippy --release --all-targets -- -D warnings

bindings-current:
    tools/bindings.sh --check

# writes src/ffi/bindings from kernels/*.h
bindings:
    tools/bindings.sh

# every kernel test again, each access watched: races, bounds, uninitialised shared memory, divergent barriers
checked:
    cargo test --release --features checked --test main -- ops:: machine:: model::

# sectors and bank conflicts of every kernel, held to tools/access_counts.tsv (kernels/README.md says how to read it)
counts:
    cargo test --release --features checked --test main -- machine::access_counts

# writes that table anew
counts-write:
    LC_COUNTS_WRITE=1 cargo test --release --features checked --test main -- machine::access_counts --nocapture

# every kernel test again, tensor-core work lane by lane
lanewise:
    cargo test --release --features lanewise --test main -- ops

# the CUDA machine on aarch64, under qemu; says why and stops where the tools are absent
aarch64:
    tools/check_aarch64.sh

# the demo, a few steps of it
demo:
    cargo run --release --bin finetune -- --steps 4 --eval-rows 12 --out target/demo --overwrite --device cpu

# docs/memory.md says what `finetune --plan` says
memory-page *args="--check":
    cargo build --release --bin finetune
    python3 tools/plan_table.py "${CARGO_TARGET_DIR:-target}/release/finetune" {{args}}

# every kernel for every GPU: no spills, registers and opcodes as in tools/static_kernels.tsv
static *args:
    tools/static.sh {{args}}

# golden files anew, from PyTorch (tools/requirements-oracle.txt); the diff should be empty
golden python="python3":
    for script in tools/golden/*.py; do case $script in */common.py) ;; *) {{python}} $script ;; esac; done

# a folder of `convert quantize` against bitsandbytes and transformers; says why and stops where they are absent
quantized source quantised python="python3":
    {{python}} tools/check_quantized.py {{source}} {{quantised}}

# what `convert` writes, in its consumers: PEFT, transformers, the gguf package; says why and stops where they are absent
exports model="tests/golden/export/spm" adapter="tests/golden/export/spm/adapter" python="python3":
    cargo build --release --bin convert
    {{python}} tools/check_exports.py "${CARGO_TARGET_DIR:-target}/release/convert" {{model}} {{adapter}}

# host memory of a large conversion
large:
    cargo test --release --test main -- --ignored --nocapture host_memory_of_a_model_of_three

bench *args:
    cargo bench --bench main -- {{args}}

# docs/benchmarks.md from a folder of results of a GPU; from none: what is not run says so
benchmarks *results:
    python3 tools/side_by_side.py {{results}}
