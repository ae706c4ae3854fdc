//! Saving so that an interruption at any instant, or a full disk, leaves either the old files or the new ones.
//!
//! The rule: write under another name on the same disk, flush, read back and compare, and only then rename, which a
//! file system does entirely or not at all. [`save_files`] replaces a few files of a folder, the one that makes them
//! look finished last; [`save_folder`] replaces a whole folder, for things that must be of the same step.

use std::fs::{self, File};
use std::io;
use std::path::{Path, PathBuf};

use crate::{Error, Result, bail_input, bytes};

/// Proof of a finished save.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Saved {
    /// SHA-256 of the safetensors file, in hexadecimal.
    pub sha256: String,
}

const UNTOUCHED: &str = "what was saved before is untouched";
const NOTHING_LEFT: &str = "nothing of it is left";

/// What a run leaves in its output folder.
const RUN_FILES: [&str; 11] = [
    "config.toml",
    "recipe.toml",
    "template.jinja",
    "adapter_config.json",
    "adapter_model.safetensors",
    "eci_config.json",
    "eci_head.safetensors",
    "run_state.safetensors",
    "log.jsonl",
    "report.json",
    "report.html",
];

/// Lets `write` make the files `names` in an empty folder beside their place and check them there, then renames them
/// into `dir` in the order given. The last name is the one without which the others are not looked at.
pub fn save_files<T>(dir: &Path, names: &[&str], write: impl FnOnce(&Path) -> Result<T>) -> Result<T> {
    fs::create_dir_all(dir).map_err(Error::io(dir))?;
    let staging = Staging::new(dir.join(format!(".{}.saving.tmp", names[0])))?;
    let done = write(&staging.path).map_err(|e| staging.explain(e, dir))?;
    for name in names {
        let place = dir.join(name);
        fs::rename(staging.path.join(name), &place).map_err(Error::io(&place))?;
    }
    sync_dir(dir)?;
    Ok(done)
}

/// Lets `write` fill an empty folder beside `dir`, then puts it in the place of `dir`. A file system cannot swap two
/// folders in one step everywhere, so an older `dir` first steps aside; [`last_good`] finds it there if the machine
/// stops in between.
pub fn save_folder<T>(dir: &Path, write: impl FnOnce(&Path) -> Result<T>) -> Result<T> {
    let (parent, staging, previous) = siblings(dir)?;
    fs::create_dir_all(parent).map_err(Error::io(parent))?;
    if !dir.exists() && previous.exists() {
        fs::rename(&previous, dir).map_err(Error::io(dir))?;
    }
    let staging = Staging::new(staging)?;
    let done = write(&staging.path).map_err(|e| staging.explain(e, dir))?;
    sync_dir(&staging.path)?;
    if dir.exists() {
        remove(&previous)?;
        fs::rename(dir, &previous).map_err(Error::io(dir))?;
    }
    if let Err(e) = fs::rename(&staging.path, dir) {
        // Nothing was there before, or it goes back; a second failure leaves it where last_good looks.
        let _ = fs::rename(&previous, dir);
        return Err(Error::io(dir)(e));
    }
    sync_dir(parent)?;
    remove(&previous)?;
    Ok(done)
}

/// As [`save_folder`], for a folder that must not be there yet: what exists is never replaced.
pub fn new_folder<T>(dir: &Path, write: impl FnOnce(&Path) -> Result<T>) -> Result<T> {
    let (parent, staging, _) = siblings(dir)?;
    if dir.exists() {
        bail_input!("{}: this already exists; choose another name, or remove it first", dir.display());
    }
    fs::create_dir_all(parent).map_err(Error::io(parent))?;
    let staging = Staging::new(staging)?;
    let done = write(&staging.path).map_err(|e| staging.explain_new(e, dir))?;
    sync_dir(&staging.path)?;
    fs::rename(&staging.path, dir).map_err(Error::io(dir))?;
    sync_dir(parent)?;
    Ok(done)
}

/// As [`new_folder`], for one file: `write` makes it at the path it is given, and it then takes its name.
pub fn new_file<T>(path: &Path, write: impl FnOnce(&Path) -> Result<T>) -> Result<T> {
    let (parent, staging, _) = siblings(path)?;
    if path.exists() {
        bail_input!("{}: this already exists; choose another name, or remove it first", path.display());
    }
    fs::create_dir_all(parent).map_err(Error::io(parent))?;
    let staging = Staging::new(staging)?;
    let file = staging.path.join(path.file_name().expect("siblings asked for it"));
    let done = write(&file).map_err(|e| staging.explain_new(e, parent))?;
    fs::rename(&file, path).map_err(Error::io(path))?;
    sync_dir(parent)?;
    Ok(done)
}

/// Refuses where the disk below `dir`, which need not exist yet, has fewer than `n_bytes` left. A disk that does not say is
/// trusted: a write that fails later leaves nothing either.
pub fn check_room(dir: &Path, n_bytes: u64) -> Result<()> {
    let absolute = std::path::absolute(dir).map_err(Error::io(dir))?;
    let there = absolute.ancestors().find(|path| path.exists()).unwrap_or(Path::new("/"));
    let Ok(disk) = rustix::fs::statvfs(there) else { return Ok(()) };
    let free = disk.f_bavail.saturating_mul(disk.f_frsize);
    if free < n_bytes {
        bail_input!(
            "{}: {} are needed, but its disk has {} left; free some space or choose another disk",
            dir.display(),
            bytes::readable(n_bytes as usize),
            bytes::readable(free as usize)
        );
    }
    Ok(())
}

/// Where the last folder finished by [`save_folder`] is: `dir`, unless an interruption came between its two renames.
pub fn last_good(dir: &Path) -> Result<PathBuf> {
    let (_, _, previous) = siblings(dir)?;
    Ok(if !dir.exists() && previous.exists() { previous } else { dir.to_path_buf() })
}

/// Makes `dir` the output folder of a new run: refused if it already holds one, unless `overwrite`, which removes that
/// run's files so that nothing of it can be taken for part of the new one.
pub fn claim_output(dir: &Path, overwrite: bool) -> Result<()> {
    if dir.exists() && !dir.is_dir() {
        bail_input!("{}: the output must be a folder, but this is a file", dir.display());
    }
    let found: Vec<PathBuf> = RUN_FILES.iter().map(|name| dir.join(name)).filter(|path| path.exists()).collect();
    let checkpoints = checkpoints(dir)?;
    if let Some(first) = found.first().or(checkpoints.first()).filter(|_| !overwrite) {
        bail_input!(
            "{}: this folder already holds a run ({}); choose another output folder, resume that run, or allow overwriting it",
            dir.display(),
            first.file_name().unwrap_or_default().display()
        );
    }
    found.iter().chain(&checkpoints).try_for_each(|path| remove(path))?;
    fs::create_dir_all(dir).map_err(Error::io(dir))?;
    let probe = dir.join(".probe.tmp");
    match File::create(&probe).and_then(|_| fs::remove_file(&probe)) {
        Ok(()) => Ok(()),
        Err(e) => bail_input!("{}: the output folder cannot be written to: {e}", dir.display()),
    }
}

/// Folders in `dir` that hold the state of a run; folders of the same name from other programs are not ours to remove.
fn checkpoints(dir: &Path) -> Result<Vec<PathBuf>> {
    if !dir.is_dir() {
        return Ok(Vec::new());
    }
    let entries =
        fs::read_dir(dir).and_then(|entries| entries.map(|entry| Ok(entry?.path())).collect::<io::Result<Vec<_>>>());
    let mut found = entries.map_err(Error::io(dir))?;
    found.retain(|path| path.join("run_state.safetensors").is_file());
    found.sort();
    Ok(found)
}

/// A folder that disappears with its content unless it was renamed away.
struct Staging {
    path: PathBuf,
}

impl Staging {
    /// Empty, whatever an interrupted save left there.
    fn new(path: PathBuf) -> Result<Self> {
        remove(&path)?;
        fs::create_dir(&path).map_err(Error::io(&path))?;
        Ok(Staging { path })
    }

    /// The error with the path the user knows, and what it means for the files of the last save.
    fn explain(&self, error: Error, dir: &Path) -> Error {
        self.say(error, dir, "resume", UNTOUCHED)
    }

    /// The same where there was nothing before.
    fn explain_new(&self, error: Error, dir: &Path) -> Error {
        self.say(error, dir, "run it again", NOTHING_LEFT)
    }

    fn say(&self, error: Error, dir: &Path, then: &str, outcome: &str) -> Error {
        let Error::Io { path, source } = error else { return error };
        let path = path.strip_prefix(&self.path).map(|rest| dir.join(rest)).unwrap_or(path);
        let text = source.to_string();
        if text.contains(outcome) {
            return Error::Io { path, source };
        }
        let advice = match source.kind() {
            io::ErrorKind::StorageFull | io::ErrorKind::QuotaExceeded | io::ErrorKind::FileTooLarge => {
                format!("free some space and {then}; ")
            }
            _ => String::new(),
        };
        let sentence = format!("could not be saved: {text}; {advice}{outcome}");
        Error::Io { path, source: io::Error::new(source.kind(), sentence) }
    }
}

impl Drop for Staging {
    fn drop(&mut self) {
        // Only a leftover: the next save of the same thing removes it too.
        let _ = fs::remove_dir_all(&self.path);
    }
}

fn siblings(dir: &Path) -> Result<(&Path, PathBuf, PathBuf)> {
    let Some(name) = dir.file_name() else {
        bail_input!("{}: this is not the name of a folder that can be replaced", dir.display());
    };
    let parent = match dir.parent() {
        Some(parent) if parent != Path::new("") => parent,
        _ => Path::new("."),
    };
    let sibling = |what: &str| parent.join(format!(".{}.{what}.tmp", name.display()));
    Ok((parent, sibling("saving"), sibling("previous")))
}

fn remove(path: &Path) -> Result<()> {
    let done = if path.is_dir() { fs::remove_dir_all(path) } else { fs::remove_file(path) };
    match done {
        Err(e) if e.kind() != io::ErrorKind::NotFound => Err(Error::io(path)(e)),
        _ => Ok(()),
    }
}

/// A rename lasts only when the folder that holds the name is flushed too.
fn sync_dir(dir: &Path) -> Result<()> {
    File::open(dir).and_then(|folder| folder.sync_all()).map_err(Error::io(dir))
}

#[cfg(test)]
mod tests {
    use std::process::{Command, Output};

    use super::*;
    use crate::checkpoint::fixtures::sentence;
    use crate::checkpoint::{RunState, TensorSpec, load_run_state, save_run_state};
    use safetensors::tensor::Dtype;

    const CHILD_DIR: &str = "LLAMACARE_TEST_CHILD_DIR";
    const CHILD_ACT: &str = "LLAMACARE_TEST_CHILD_ACT";

    /// A state to tell apart by its step.
    fn state(step: u64) -> RunState {
        RunState { step, ..RunState::default() }
    }

    /// The counters, and 200,000 bytes that tell of the step.
    fn save(dir: &Path, state: &RunState) -> Result<()> {
        let specs = [TensorSpec::new("masters", Dtype::U8, &[200_000])];
        save_run_state(dir, state, &specs, |file| file.append("masters", &[state.step as u8; 200_000]))
    }

    fn load(dir: &Path) -> Result<RunState> {
        let (state, tensors) = load_run_state(dir)?;
        assert!(tensors.get("masters").is_some_and(|(.., bytes)| bytes == [state.step as u8; 200_000]));
        Ok(state)
    }

    /// Runs [`child`] in a process of its own, where no file may grow beyond `max_blocks` (of 512 or 1024 bytes).
    fn run_child(dir: &Path, act: &str, max_blocks: &str) -> Output {
        // With SIGXFSZ ignored, a write beyond the limit fails as it does on a full disk.
        let script = format!(
            "trap '' XFSZ; ulimit -f {max_blocks}; exec \"$0\" --exact {}::child --ignored --nocapture",
            module()
        );
        Command::new("sh")
            .args(["-c", &script])
            .arg(std::env::current_exe().unwrap())
            .envs([(CHILD_DIR, dir.as_os_str()), (CHILD_ACT, act.as_ref())])
            .output()
            .unwrap()
    }

    /// This module's path as the test harness names it.
    fn module() -> &'static str {
        module_path!().split_once("::").unwrap().1
    }

    #[test]
    #[ignore = "the child process of other tests of this file"]
    fn child() {
        let Some(dir) = std::env::var_os(CHILD_DIR).map(PathBuf::from) else { return };
        match std::env::var(CHILD_ACT).unwrap().as_str() {
            "save" => match save(&dir, &state(2)) {
                Ok(_) => println!("SAVED"),
                Err(e) => println!("REFUSED {} {e}", e.exit_code()),
            },
            "save folder" => match save_folder(&dir, |staging| save(staging, &state(2))) {
                Ok(_) => println!("SAVED"),
                Err(e) => println!("REFUSED {} {e}", e.exit_code()),
            },
            "die in save_files" => save_files(&dir, &["run_state.safetensors"], |staging| -> Result<()> {
                save(staging, &state(2)).unwrap();
                std::process::abort()
            })
            .unwrap(),
            "die in save_folder" => save_folder(&dir, |staging| -> Result<()> {
                save(staging, &state(2)).unwrap();
                std::process::abort()
            })
            .unwrap(),
            act => panic!("unknown act {act}"),
        }
    }

    #[test]
    fn a_full_disk_leaves_the_last_good_checkpoint() {
        let dir = tempfile::tempdir().unwrap();
        let dir = dir.path().join("checkpoint");
        save(&dir, &state(1)).unwrap();
        for act in ["save", "save folder"] {
            let output = String::from_utf8(run_child(&dir, act, "64").stdout).unwrap();
            let said = output.lines().find(|line| line.contains("REFUSED")).unwrap_or_else(|| panic!("{output}"));
            let expected = format!(
                "REFUSED 1 {}: could not be saved: File too large",
                dir.join("run_state.safetensors").display()
            );
            assert!(said.contains(&expected), "{said}");
            assert!(said.contains("free some space and resume; what was saved before is untouched"), "{said}");
            assert_eq!(load(&dir).unwrap(), state(1));
            assert_eq!(fs::read_dir(&dir).unwrap().count(), 1, "nothing is left beside the old file");
            assert_eq!(fs::read_dir(dir.parent().unwrap()).unwrap().count(), 1, "nor beside the folder");
        }
        let output = String::from_utf8(run_child(&dir, "save", "unlimited").stdout).unwrap();
        assert!(output.contains("SAVED"), "{output}");
        assert_eq!(load(&dir).unwrap(), state(2));
    }

    #[test]
    fn a_first_save_on_a_full_disk_leaves_nothing_that_looks_finished() {
        let dir = tempfile::tempdir().unwrap();
        let output = String::from_utf8(run_child(dir.path(), "save", "64").stdout).unwrap();
        assert!(output.contains("REFUSED 1"), "{output}");
        assert!(sentence(load(dir.path())).contains("there is no run_state.safetensors"));
    }

    #[test]
    fn a_killed_save_leaves_the_last_good_checkpoint_and_the_next_one_cleans_up() {
        for act in ["die in save_files", "die in save_folder"] {
            let parent = tempfile::tempdir().unwrap();
            let dir = parent.path().join("checkpoint");
            let n_entries = || fs::read_dir(&dir).unwrap().count() + fs::read_dir(parent.path()).unwrap().count();
            save(&dir, &state(1)).unwrap();
            assert_eq!(n_entries(), 2);
            assert!(!run_child(&dir, act, "unlimited").status.success());
            assert_eq!(n_entries(), 3, "{act}: the child must have died in the middle");
            assert_eq!(load(&last_good(&dir).unwrap()).unwrap(), state(1));
            match act {
                "die in save_files" => save(&dir, &state(3)).unwrap(),
                _ => save_folder(&dir, |staging| save(staging, &state(3))).unwrap(),
            }
            assert_eq!(load(&dir).unwrap(), state(3));
            assert_eq!(n_entries(), 2);
        }
    }

    #[test]
    fn a_folder_that_stepped_aside_is_found_and_put_back() {
        let parent = tempfile::tempdir().unwrap();
        let dir = parent.path().join("checkpoint");
        save_folder(&dir, |staging| save(staging, &state(1))).unwrap();
        assert_eq!(last_good(&dir).unwrap(), dir);
        // As if the machine had stopped between the two renames.
        fs::rename(&dir, parent.path().join(".checkpoint.previous.tmp")).unwrap();
        assert_eq!(load(&last_good(&dir).unwrap()).unwrap(), state(1));
        let failed = save_folder(&dir, |_| -> Result<()> { Err(Error::Shape("stop".into())) });
        assert!(failed.is_err());
        assert_eq!(load(&dir).unwrap(), state(1));
        save_folder(&dir, |staging| save(staging, &state(2))).unwrap();
        assert_eq!(load(&dir).unwrap(), state(2));
        assert_eq!(fs::read_dir(parent.path()).unwrap().count(), 1);
    }

    #[test]
    fn an_output_folder_that_holds_a_run_is_refused() {
        let parent = tempfile::tempdir().unwrap();
        let dir = parent.path().join("out");
        claim_output(&dir, false).unwrap();
        fs::write(dir.join("notes.txt"), "mine").unwrap();
        claim_output(&dir, false).unwrap();
        for name in RUN_FILES {
            fs::write(dir.join(name), "x").unwrap();
            let text = sentence(claim_output(&dir, false));
            assert!(text.contains(&format!("already holds a run ({name})")), "{text}");
            claim_output(&dir, true).unwrap();
            assert!(!dir.join(name).exists());
        }
        save(&dir.join("checkpoint"), &state(1)).unwrap();
        fs::create_dir(dir.join("checkpoint-of-another-program")).unwrap();
        assert!(sentence(claim_output(&dir, false)).contains("already holds a run (checkpoint)"));
        claim_output(&dir, true).unwrap();
        assert!(!dir.join("checkpoint").exists());
        assert!(dir.join("checkpoint-of-another-program").exists());
        assert_eq!(fs::read_to_string(dir.join("notes.txt")).unwrap(), "mine");
    }

    #[test]
    fn an_output_that_cannot_be_a_folder_is_refused() {
        let parent = tempfile::tempdir().unwrap();
        let file = parent.path().join("file");
        fs::write(&file, "x").unwrap();
        assert!(sentence(claim_output(&file, true)).contains("this is a file"));
        assert_eq!(fs::read_to_string(&file).unwrap(), "x");
    }
}
