//! tools/static_check.py without a compiler: a stand-in for cuobjdump says what is in an object, and what the table must
//! refuse is refused.

use super::text;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::process::{Command, Output};
use tempfile::TempDir;

/// One kernel of an object: its instructions, and bytes of local memory.
struct Kernel<'a> {
    opcodes: &'a [&'a str],
    local: usize,
}

/// A folder with a stand-in that prints what stands beside the object.
struct Objects(TempDir);

impl Objects {
    fn new() -> Objects {
        let dir = TempDir::new().unwrap();
        let tool = dir.path().join("cuobjdump");
        std::fs::write(&tool, "#!/bin/sh\ncat \"$2$1\"\n").unwrap();
        std::fs::set_permissions(&tool, std::fs::Permissions::from_mode(0o755)).unwrap();
        Objects(dir)
    }

    fn path(&self, name: &str) -> PathBuf {
        self.0.path().join(name)
    }

    fn put(&self, kernel: &Kernel) {
        let code: Vec<String> = kernel
            .opcodes
            .iter()
            .enumerate()
            .map(|(i, o)| format!("        /*{:04x}*/   @!P0 {o} R1, R2 ;", i * 16))
            .collect();
        let object =
            |what: &str, text: &str| std::fs::write(self.path(&format!("rms_norm.cuda.o{what}")), text).unwrap();
        object("-sass", &format!("code for sm_86\n\t\tFunction : kernel_a\n{}\n", code.join("\n")));
        let bounds =
            ".nv.info.kernel_a\n\tAttribute:\tEIATTR_MAX_THREADS\n\tFormat:\tEIFMT_SVAL\n\tValue:\t0x80 0x2 0x1 \n";
        object("-elf", &format!("arch = sm_86\n{bounds}"));
        let usage =
            format!(" Function kernel_a:\n  REG:100 STACK:0 SHARED:2048 LOCAL:{} CONSTANT[0]:400\n", kernel.local);
        object("-res-usage", &format!("arch = sm_86\n{usage}"));
    }

    fn check(&self, more: &[&str]) -> Output {
        let script = Path::new(env!("CARGO_MANIFEST_DIR")).join("tools/static_check.py");
        let mut command = Command::new("python3");
        command.arg("-B").arg(script).arg("--table").arg(self.path("table.tsv")).args(more);
        command
            .arg(self.path("rms_norm.cuda.o"))
            .env("CUOBJDUMP", self.path("cuobjdump"))
            .output()
            .expect("python3 starts")
    }
}

fn there_is(program: &str) -> bool {
    let there = Command::new(program).arg("--version").output().is_ok_and(|output| output.status.success());
    if !there {
        println!("skipped: {program} is not on this machine");
    }
    there
}

const WHOLE: [&str; 6] =
    ["HMMA.16816.F32.BF16", "LDSM.16.M88.4", "LDG.E.128", "LDS.128", "HGMMA.64x256x16.F32.BF16", "UTMALDG.2D"];

#[test]
fn the_table_holds_threads_occupancy_and_opcodes_and_equal_objects_pass() {
    if !there_is("python3") || !there_is("c++filt") {
        return;
    }
    let objects = Objects::new();
    objects.put(&Kernel { opcodes: &WHOLE, local: 0 });
    let said = objects.check(&["--write"]);
    assert!(said.status.success(), "{}{}", text(&said.stdout), text(&said.stderr));
    let table = std::fs::read_to_string(objects.path("table.tsv")).unwrap();
    let lines: Vec<Vec<&str>> = table.lines().map(|line| line.split('\t').collect()).collect();
    let (head, row) = (&lines[0], lines.iter().find(|line| line[1] == "kernel_a").expect("its row"));
    let cell = |column: &str| row[head.iter().position(|c| *c == column).unwrap_or_else(|| panic!("{column}"))];
    // 256 threads of 100 registers, 104 as they are handed out: 3,328 a warp, four warps in a quarter of 16,384; 16 / 8.
    let expected =
        [("threads", "256"), ("registers", "100"), ("shared", "2048"), ("blocks", "2"), ("HMMA", "1"), ("HGMMA", "1")];
    for (column, value) in
        expected.into_iter().chain([("UTMALDG", "1"), ("LDG.128", "1"), ("LDS.128", "1"), ("STS.128", "0")])
    {
        assert_eq!(cell(column), value, "{column}");
    }
    let said = objects.check(&[]);
    assert!(said.status.success(), "{}{}", text(&said.stdout), text(&said.stderr));
    objects.put(&Kernel { opcodes: &WHOLE[..5], local: 0 });
    let said = objects.check(&[]);
    assert_eq!(said.status.code(), Some(1), "a lost TMA load is a difference");
    assert!(objects.check(&["--write"]).status.success(), "which may be meant");
}

#[test]
fn a_kernel_that_spills_or_loses_its_tensor_cores_is_refused_even_where_the_table_is_written() {
    if !there_is("python3") || !there_is("c++filt") {
        return;
    }
    let objects = Objects::new();
    objects.put(&Kernel { opcodes: &WHOLE, local: 0 });
    assert!(objects.check(&["--write"]).status.success());
    let before = std::fs::read(objects.path("table.tsv")).unwrap();
    for (what, kernel) in [
        ("no longer uses tensor cores", Kernel { opcodes: &["FFMA", "LDG.E.128"], local: 0 }),
        ("a kernel spills", Kernel { opcodes: &WHOLE, local: 16 }),
        ("a kernel spills", Kernel { opcodes: &["HMMA.16816.F32.BF16", "STL"], local: 0 }),
    ] {
        objects.put(&kernel);
        for more in [&["--write"][..], &[]] {
            let said = objects.check(more);
            assert_eq!(said.status.code(), Some(1), "{what}: {}", text(&said.stdout));
            assert!(text(&said.stderr).contains(what), "{}", text(&said.stderr));
            assert!(std::fs::read(objects.path("table.tsv")).unwrap() == before, "{what}: the table was written");
        }
    }
    // From mma.sync to wgmma is no loss.
    objects.put(&Kernel { opcodes: &["HGMMA.64x256x16.F32.BF16"], local: 0 });
    assert!(objects.check(&["--write"]).status.success());
}
