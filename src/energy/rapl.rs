//! A CPU's energy counters (RAPL, running average power limit), as Linux shows them: a folder for each package with the microjoules
//! it took, which start again at 0 behind a largest value.
//!
//! That comes round in minutes (262 kJ at 200 W: 22 of them), and a reader who comes later cannot tell how often it did. So the counters
//! are looked at every few seconds, whether somebody wants to know or not.

use super::Counter;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::mpsc::{RecvTimeoutError, Sender, channel};
use std::sync::{Arc, Mutex};
use std::time::Duration;

/// The smallest counters (65 kJ) come round in 65 s at 1000 W.
const LOOK_EVERY: Duration = Duration::from_secs(10);

#[derive(Debug)]
struct Rapl {
    packages: Arc<Mutex<Vec<Package>>>,
    /// Goes with the meter; then whoever looks stops.
    _looking: Sender<()>,
}

#[derive(Debug)]
struct Package {
    file: PathBuf,
    /// The largest value, behind which 0 comes.
    range: u64,
    last: u64,
    /// Microjoules since it was opened.
    sum: u64,
    /// A reading failed: what was used meanwhile is not known.
    lost: bool,
}

impl Counter for Rapl {
    fn joules(&self) -> Option<f64> {
        look(&self.packages)
    }
}

/// The counters of the packages below `folder` and what they hold; or why there are none.
pub(super) fn open(folder: &Path) -> Result<(Box<dyn Counter>, String), String> {
    let packages = Arc::new(Mutex::new(packages(folder)?));
    let (looking, gone) = channel::<()>();
    let looked_at = packages.clone();
    std::thread::Builder::new()
        .name("rapl".into())
        .spawn(move || {
            while gone.recv_timeout(LOOK_EVERY) == Err(RecvTimeoutError::Timeout) {
                look(&looked_at);
            }
        })
        .map_err(|e| format!("no thread to watch RAPL's counters: {e}"))?;
    let what =
        "CPU packages, RAPL counters (all that runs on them, other programs too; not memory, disks and power supply)";
    Ok((Box::new(Rapl { packages, _looking: looking }), what.into()))
}

/// Brings the sums up to date: joules of all packages since they were opened.
fn look(packages: &Mutex<Vec<Package>>) -> Option<f64> {
    let mut packages = packages.lock().unwrap_or_else(|poisoned| poisoned.into_inner());
    packages.iter_mut().for_each(Package::look);
    let whole = packages.iter().all(|package| !package.lost);
    whole.then(|| packages.iter().map(|package| package.sum).sum::<u64>() as f64 / 1e6)
}

impl Package {
    fn look(&mut self) {
        match number(&self.file) {
            Ok(now) => {
                self.sum += if now >= self.last { now - self.last } else { self.range.saturating_sub(self.last) + now };
                self.last = now;
            }
            Err(_) => self.lost = true,
        }
    }
}

/// The package domains: `intel-rapl:N` (AMD's too) named `package-...`. Not their parts, which they hold, nor `psys`, which holds them.
fn packages(folder: &Path) -> Result<Vec<Package>, String> {
    let entries = std::fs::read_dir(folder).map_err(|e| {
        format!(
            "{}: {e}; this machine shows no RAPL counters (virtual machines and containers often do not)",
            folder.display()
        )
    })?;
    let mut found = Vec::new();
    for domain in entries.flatten().map(|entry| entry.path()) {
        let number_of = |name: &str| name.strip_prefix("intel-rapl:").is_some_and(|n| n.parse::<u32>().is_ok());
        let is_domain = domain.file_name().and_then(|name| name.to_str()).is_some_and(number_of);
        let name = std::fs::read_to_string(domain.join("name")).unwrap_or_default();
        if !is_domain || !name.starts_with("package") {
            continue;
        }
        let file = domain.join("energy_uj");
        let last = number(&file).map_err(|e| refusal(&file, &e))?;
        let range = domain.join("max_energy_range_uj");
        let range = number(&range).map_err(|e| refusal(&range, &e))?;
        found.push(Package { file, range, last, sum: 0, lost: false });
    }
    match found.is_empty() {
        true => Err(format!("{}: no package domain (intel-rapl:N named package-N) in it", folder.display())),
        false => Ok(found),
    }
}

fn number(file: &Path) -> io::Result<u64> {
    std::fs::read_to_string(file)?.trim().parse().map_err(|_| io::Error::other("it holds no number"))
}

/// Why a counter cannot be read, and what helps.
fn refusal(file: &Path, e: &io::Error) -> String {
    let file = file.display();
    match e.kind() {
        io::ErrorKind::PermissionDenied => {
            format!("{file} may be read by root only (permission denied); to let everyone: sudo chmod a+r {file}")
        }
        _ => format!("{file}: {e}"),
    }
}

#[cfg(test)]
mod tests {
    use super::super::Meter;
    use super::*;
    use tempfile::TempDir;

    /// A made-up /sys/class/powercap: two packages with a part each, and what else lies there.
    fn tree() -> TempDir {
        let folder = tempfile::tempdir().unwrap();
        for (domain, name) in [
            ("intel-rapl:0", "package-0"),
            ("intel-rapl:0:0", "package-like part"),
            ("intel-rapl:1", "package-1"),
            ("intel-rapl:2", "psys"),
            ("intel-rapl-mmio:0", "package-0"),
        ] {
            std::fs::create_dir(folder.path().join(domain)).unwrap();
            set(&folder, domain, "name", name);
            set(&folder, domain, "energy_uj", "1000000");
            set(&folder, domain, "max_energy_range_uj", "10000000");
        }
        std::fs::create_dir(folder.path().join("intel-rapl")).unwrap();
        folder
    }

    fn set(folder: &TempDir, domain: &str, file: &str, value: &str) {
        std::fs::write(folder.path().join(domain).join(file), format!("{value}\n")).unwrap();
    }

    fn meter(folder: &TempDir) -> Meter {
        Meter::of(open(folder.path()))
    }

    #[test]
    fn packages_are_added_up_and_their_parts_are_not() {
        let folder = tree();
        let meter = meter(&folder);
        assert!(meter.what().starts_with("CPU packages, RAPL counters"), "{}", meter.what());
        assert_eq!(meter.read(), Some(0.0));
        for domain in ["intel-rapl:0:0", "intel-rapl:2", "intel-rapl-mmio:0"] {
            set(&folder, domain, "energy_uj", "9000000");
        }
        assert_eq!(meter.read(), Some(0.0));
        set(&folder, "intel-rapl:0", "energy_uj", "1500000");
        set(&folder, "intel-rapl:1", "energy_uj", "3000000");
        assert_eq!(meter.read(), Some(2.5));
        assert_eq!(meter.read(), Some(2.5), "reading takes nothing");
    }

    #[test]
    fn a_counter_that_comes_round_goes_on() {
        let folder = tree();
        let meter = meter(&folder);
        let mut expected = 0.0;
        for (now, joules) in [("9900000", 8.9), ("200000", 0.3), ("9000000", 8.8), ("8000000", 9.0)] {
            set(&folder, "intel-rapl:0", "energy_uj", now);
            expected += joules;
            let read = meter.read().unwrap();
            assert!((read - expected).abs() < 1e-9, "{now}: {read}, not {expected}");
        }
    }

    #[test]
    fn what_was_lost_once_is_not_made_up() {
        let folder = tree();
        let meter = meter(&folder);
        set(&folder, "intel-rapl:1", "energy_uj", "");
        assert_eq!(meter.read(), None);
        set(&folder, "intel-rapl:1", "energy_uj", "2000000");
        assert_eq!(meter.read(), None);
    }

    #[test]
    fn why_nothing_is_measured_is_said_with_the_file() {
        let folder = tree();
        set(&folder, "intel-rapl:1", "max_energy_range_uj", "many");
        let said = meter(&folder).what().to_string();
        assert!(said.ends_with("intel-rapl:1/max_energy_range_uj: it holds no number"), "{said}");

        for domain in ["intel-rapl:0", "intel-rapl:1"] {
            set(&folder, domain, "name", "dram");
        }
        let said = meter(&folder).what().to_string();
        assert!(said.starts_with("not measured: ") && said.contains("no package domain"), "{said}");

        let missing = Meter::of(open(&folder.path().join("none"))).what().to_string();
        assert!(missing.contains("/none: ") && missing.contains("shows no RAPL counters"), "{missing}");
    }

    #[test]
    fn a_counter_for_root_alone_is_named_with_what_helps() {
        let denied = io::Error::from(io::ErrorKind::PermissionDenied);
        let said = refusal(Path::new("/sys/a/energy_uj"), &denied);
        assert_eq!(
            said,
            "/sys/a/energy_uj may be read by root only (permission denied); to let everyone: sudo chmod a+r /sys/a/energy_uj"
        );
        #[cfg(unix)]
        {
            use std::os::unix::fs::PermissionsExt;
            let folder = tree();
            let file = folder.path().join("intel-rapl:0/energy_uj");
            std::fs::set_permissions(&file, std::fs::Permissions::from_mode(0o000)).unwrap();
            match std::fs::read(&file) {
                Ok(_) => println!("skipped: this user (root) may read everything, so no file can deny it"),
                Err(_) => assert!(meter(&folder).what().contains("intel-rapl:0/energy_uj may be read by root only")),
            }
        }
    }
}
