//! Compiles kernels/*.cu for the CPU device (always) and for CUDA (where nvcc is), and writes the table of launchers.
//!
//! Nothing here lists an operation: sources and bindings are found by looking into the folders. Variants of one source
//! differ by the suffix of their launchers (kernels/lc.h): `cpu_bf16`, `cpu_fp32`, and `cuda`.

use std::{
    env, fs,
    path::{Path, PathBuf},
    process::Command,
};

/// The GPUs kernels are compiled for; PTX of the oldest lets newer ones in.
const GPUS: [&str; 5] = ["80", "86", "89", "90a", "120"];

fn main() {
    println!("cargo::rerun-if-changed=kernels");
    println!("cargo::rerun-if-changed=tests/kernels");
    println!("cargo::rerun-if-changed=src/ffi/bindings");
    println!("cargo::rustc-check-cfg=cfg(cuda)");
    let sources = files("kernels", "cu");
    let out = PathBuf::from(env::var("OUT_DIR").expect("cargo sets OUT_DIR"));
    compile_host(&sources);
    let cuda = compile_cuda(&sources, &out);
    if cuda {
        println!("cargo::rustc-cfg=cuda");
    }
    write_launchers(&out, cuda);
}

fn files(folder: &str, extension: &str) -> Vec<PathBuf> {
    let mut found: Vec<PathBuf> = fs::read_dir(folder)
        .unwrap_or_else(|e| panic!("{folder}: {e}"))
        .map(|entry| entry.expect("a readable folder").path())
        .filter(|p| p.extension().is_some_and(|e| e == extension))
        .collect();
    found.sort();
    found
}

fn feature(name: &str) -> bool {
    env::var(format!("CARGO_FEATURE_{name}")).is_ok()
}

/// The CUDA machine and every kernel, for the CPU. Optimised in every profile: at -O0 the tests would take hours.
fn compile_host(sources: &[PathBuf]) {
    let x86 = env::var("CARGO_CFG_TARGET_ARCH").is_ok_and(|a| a == "x86_64");
    let base = |level: &str| {
        let mut b = cc::Build::new();
        b.cpp(true).std("gnu++17").opt_level(3).debug(false).flag("-g1").include("kernels").warnings(true);
        b.flag("-fno-exceptions").flag("-fno-rtti").flag("-fno-math-errno").flag("-fno-trapping-math");
        b.flag("-fno-stack-protector").flag("-fomit-frame-pointer").flag("-Wno-unknown-pragmas").flag("-Wno-psabi");
        b.flag("-Wno-unused-parameter").flag("-Wno-unused-function").flag("-Wno-ignored-attributes");
        if x86 {
            // Fibres switch in inline assembly: no red zone under their feet, and no vzeroupper at every switch.
            b.flag(format!("-march={level}")).flag("-mno-red-zone").flag("-mno-vzeroupper");
        }
        if feature("CHECKED") {
            // Full debug information: a fault is named by the line of the kernel it was inlined into.
            b.define("LC_CHECKED", "1").flag("-g");
        }
        if feature("LANEWISE") {
            b.define("LC_LANEWISE", None);
        }
        b
    };
    let mut machine = base("x86-64-v3");
    for part in ["machine", "lanes", "hopper", "leaf_fp8"] {
        machine.file(format!("kernels/host/{part}.cpp"));
    }
    if feature("CHECKED") {
        for part in ["check", "check_global", "check_hopper", "count"] {
            machine.file(format!("kernels/host/{part}.cpp"));
        }
    }
    machine.compile("lc_machine");
    let mut leaf = base("x86-64-v3");
    leaf.define("LC_LEAF", "leaf_base").file("kernels/host/leaf.cpp").compile("lc_leaf_base");
    if x86 {
        let mut leaf = base("x86-64-v4");
        leaf.define("LC_LEAF", "leaf_avx512").file("kernels/host/leaf.cpp").compile("lc_leaf_avx512");
        let mut leaf = base("x86-64-v4");
        leaf.flag("-mavx512bf16").file("kernels/host/leaf_bf16.cpp").compile("lc_leaf_bf16");
    }
    // The machine's own tests are members of the same archive: nothing but tests/ refers to them, so the linker leaves
    // them out of the binaries, and they are compiled exactly as kernels are, in every variant.
    let mut sources = sources.to_vec();
    sources.extend(files("tests/kernels", "cu"));
    for (variant, fp32) in [("cpu_bf16", false), ("cpu_fp32", true)] {
        let mut b = base("x86-64-v3");
        // -x c++: to g++, .cu is not a language.
        b.define("LC_VARIANT", variant).flag("-xc++");
        if fp32 {
            b.define("LC_FP32", None);
        }
        if feature("CHECKED") {
            // The compiler marks every access; kernels/host/check.cpp, not the sanitizer's runtime, receives it. Structs stay
            // whole: taken apart, a load of 16 bytes would be marked as eight of two.
            b.flag("-fsanitize=thread").flag_if_supported("-fno-tree-sra");
        }
        b.files(&sources).compile(&format!("lc_{variant}"));
    }
}

/// nvcc from NVCC, CUDA_HOME, PATH, /usr/local/cuda, or the folder that tools/install_cuda.sh fills.
fn find_nvcc() -> Option<PathBuf> {
    for name in ["NVCC", "CUDA_HOME", "PATH"] {
        println!("cargo::rerun-if-env-changed={name}");
    }
    let mut places: Vec<PathBuf> = env::var_os("NVCC").map(PathBuf::from).into_iter().collect();
    places.extend(env::var_os("CUDA_HOME").map(|home| PathBuf::from(home).join("bin/nvcc")));
    places.extend(env::split_paths(&env::var_os("PATH").unwrap_or_default()).map(|p| p.join("nvcc")));
    places.push("/usr/local/cuda/bin/nvcc".into());
    places.push(env::current_dir().expect("a current folder").join(".cuda/nvidia/cu13/bin/nvcc"));
    places.into_iter().find(|p| p.is_file())
}

/// Every kernel for every GPU, with its launchers, as objects in one archive. False without nvcc.
fn compile_cuda(sources: &[PathBuf], out: &Path) -> bool {
    let Some(nvcc) = find_nvcc() else {
        println!(
            "cargo::warning=no nvcc: this build runs on the CPU device; for a GPU, run tools/install_cuda.sh and build again"
        );
        return false;
    };
    let mut objects = Vec::new();
    for source in sources {
        let object = out.join(source.with_extension("cuda.o").file_name().expect("a file"));
        let mut command = Command::new(&nvcc);
        command.args(["-std=c++17", "-O3", "-lineinfo", "-Ikernels", "-DLC_VARIANT=cuda", "-Xcompiler", "-fPIC", "-c"]);
        for gpu in GPUS {
            command.arg(format!("-gencode=arch=compute_{gpu},code=sm_{gpu}"));
        }
        command.arg("-gencode=arch=compute_80,code=compute_80").arg("-o").arg(&object).arg(source);
        let done = command.output().unwrap_or_else(|e| panic!("{}: {e}", nvcc.display()));
        assert!(done.status.success(), "nvcc {}:\n{}", source.display(), String::from_utf8_lossy(&done.stderr));
        objects.push(object);
    }
    let mut archive = cc::Build::new();
    objects.iter().for_each(|o| {
        archive.object(o);
    });
    archive.compile("lc_cuda");
    // The runtime is linked in statically; it looks for the driver only when it is first called.
    let home = nvcc.parent().and_then(Path::parent).expect("nvcc lies in bin/");
    for lib in ["lib64", "lib", "targets/x86_64-linux/lib"] {
        println!("cargo::rustc-link-search=native={}", home.join(lib).display());
    }
    for lib in ["static=cudart_static", "dylib=dl", "dylib=rt", "dylib=pthread", "dylib=stdc++"] {
        println!("cargo::rustc-link-lib={lib}");
    }
    true
}

/// One `Launcher` per `lc_<name>` function of the bindings: the three variants of the same source, under one name.
fn write_launchers(out: &Path, cuda: bool) {
    let mut text = String::new();
    for binding in files("src/ffi/bindings", "rs") {
        let absolute = binding.canonicalize().expect("an existing file");
        text += &format!("include!({:?});\n", absolute.display().to_string());
        let source = fs::read_to_string(&binding).expect("a readable binding");
        text += &pointers(&source);
        let flat: String = source.split_whitespace().collect::<Vec<_>>().join(" ");
        for part in flat.split("pub fn lc_").skip(1) {
            let (name, rest) = part.split_once('(').expect("a function");
            let args = rest.split_once("*const ").and_then(|(_, r)| r.split_once(',')).expect("(args, stream)").0;
            text += &launcher(name, args, cuda);
        }
    }
    fs::write(out.join("launchers.rs"), text).expect("a writable OUT_DIR");
}

/// `Pointers` for every struct of a binding: `*mut` is written, `*const` is read, structs of ours hold pointers themselves.
fn pointers(source: &str) -> String {
    let mut text = String::new();
    for part in source.split("pub struct ").skip(1) {
        let (name, rest) = part.split_once(" {").expect("a struct");
        let fields = rest.split_once("\n}").expect("its end").0.lines();
        let mut body = String::new();
        for (field, kind) in fields.filter_map(|line| line.trim().strip_prefix("pub ")?.split_once(": ")) {
            body += &match kind {
                _ if kind.starts_with('*') => format!("visit(self.{field} as usize, {});", kind.starts_with("*mut")),
                _ if kind.starts_with("lc_") => format!("self.{field}.each_pointer(visit);"),
                _ if kind.starts_with("[lc_") => {
                    format!("self.{field}.iter().for_each(|part| part.each_pointer(visit));")
                }
                _ => continue,
            };
        }
        let visit = if body.is_empty() { "_visit" } else { "visit" };
        text += &format!(
            "impl Pointers for {name} {{ fn each_pointer(&self, {visit}: &mut dyn FnMut(usize, bool)) {{ {body} }} }}\n"
        );
    }
    text
}

fn launcher(name: &str, args: &str, cuda: bool) -> String {
    let signature = format!("(a: *const {args}, stream: lc_stream) -> lc_status;");
    let gpu = if cuda { format!("Some(lc_{name}_cuda)") } else { "None".into() };
    let gpu_extern = if cuda { format!("fn lc_{name}_cuda{signature}") } else { String::new() };
    format!(
        "unsafe extern \"C\" {{ fn lc_{name}_cpu_bf16{signature} fn lc_{name}_cpu_fp32{signature} {gpu_extern} }}\n\
         /// `lc_{name}` of every variant built.\n\
         pub static {upper}: Launcher<{args}> = Launcher {{ name: \"{name}\", cpu_bf16: lc_{name}_cpu_bf16, \
         cpu_fp32: lc_{name}_cpu_fp32, cuda: {gpu} }};\n",
        upper = name.to_uppercase()
    )
}
