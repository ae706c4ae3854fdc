//! The `verify` command's verdict is its exit code.

use super::{assert_says, refusal, text};
use assert_cmd::Command;
use std::path::{Path, PathBuf};
use std::process::Output;

fn verify(oracle: &Path) -> Output {
    let verify = Path::new(env!("CARGO_BIN_EXE_verify"));
    Command::new(verify).arg("--oracle").arg(oracle).args(["--device", "cpu"]).output().expect("a process that starts")
}

/// The smallest oracle case, copied so that it can be spoilt; none where the shared cases are not there.
fn case() -> Option<tempfile::TempDir> {
    let beside = Path::new(env!("CARGO_MANIFEST_DIR")).with_file_name("shared");
    let case = std::env::var_os("LLAMACARE_SHARED").map_or(beside, PathBuf::from).join("oracle/tiny_llama/eci");
    if !case.is_dir() {
        println!("skipped: {} is not there (LLAMACARE_SHARED names the folder that holds oracle/)", case.display());
        return None;
    }
    let copy = tempfile::tempdir().expect("a temporary folder");
    copy_folder(&case, copy.path());
    Some(copy)
}

fn copy_folder(from: &Path, to: &Path) {
    std::fs::create_dir_all(to).expect("a folder");
    for entry in std::fs::read_dir(from).expect("a folder") {
        let path = entry.expect("an entry").path();
        let place = to.join(path.file_name().expect("a name"));
        match path.is_dir() {
            true => copy_folder(&path, &place),
            false => std::fs::write(place, std::fs::read(&path).expect("a readable file")).expect("room on the disk"),
        }
    }
}

#[test]
fn an_altered_golden_value_fails() {
    let Some(case) = case() else { return };
    let output = verify(case.path());
    assert_eq!(output.status.code(), Some(0), "{}{}", text(&output.stdout), text(&output.stderr));
    let golden = case.path().join("golden_dense.safetensors");
    let mut bytes = std::fs::read(&golden).unwrap();
    // The upper half of the file's numbers become another, all of them finite.
    let half = bytes.len() / 2 / 4 * 4;
    let end = bytes.len();
    bytes[half..end].as_chunks_mut::<4>().0.iter_mut().for_each(|b| *b = 0.75f32.to_le_bytes());
    std::fs::write(&golden, bytes).unwrap();
    let output = verify(case.path());
    assert_eq!(output.status.code(), Some(1), "{}{}", text(&output.stdout), text(&output.stderr));
    assert_says(&text(&output.stdout), &["FAIL"]);
}

#[test]
fn a_folder_without_cases_is_refused() {
    let folder = tempfile::tempdir().unwrap();
    assert_says(&refusal(&verify(folder.path()), 2), &["no oracle case here", "config.json and batches.safetensors"]);
}
