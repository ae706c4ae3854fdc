//! What a computation takes from the wall, as far as the machine itself counts it: a GPU's board by NVML, a CPU's packages by RAPL.
//!
//! A [`Meter`] is read before and after; the difference is what was used in between, by this program and by whatever else ran
//! there. Where nothing counts, a reading is none, never 0, and the meter says why.

mod nvml;
mod rapl;
mod spent;

pub use spent::{Asking, Energy, Step, three_digits};

use crate::device::Device;
use std::fmt::Debug;
use std::path::PathBuf;

/// Where another folder than the kernel's is read for RAPL (tests).
const RAPL_SWITCH: &str = "LLAMACARE_RAPL";
const RAPL_FOLDER: &str = "/sys/class/powercap";

/// Something that counts energy.
trait Counter: Debug + Send + Sync {
    /// Joules since some moment that stays the same; none where it cannot be read any more.
    fn joules(&self) -> Option<f64>;
}

/// The energy counter of a device, or the reason why there is none.
#[derive(Debug)]
pub struct Meter {
    counter: Option<Box<dyn Counter>>,
    what: String,
}

impl Meter {
    /// The counter of this device: NVML's of the board that a GPU sits on, RAPL's of the CPU's packages for the CPU device. Never
    /// fails: a meter without a counter says why.
    pub fn open(device: &Device) -> Meter {
        let opened = match device.pci_bus_id() {
            Some(bus_id) => nvml::open(&bus_id),
            None if device.is_cuda() => Err("the driver does not say where on the bus this GPU sits".into()),
            None if device.is_paper() => Err("paper takes none".into()),
            None => rapl::open(&std::env::var_os(RAPL_SWITCH).map_or(RAPL_FOLDER.into(), PathBuf::from)),
        };
        Meter::of(opened)
    }

    fn of(opened: std::result::Result<(Box<dyn Counter>, String), String>) -> Meter {
        match opened {
            Ok((counter, what)) => Meter { counter: Some(counter), what },
            Err(why) => Meter { counter: None, what: format!("not measured: {why}") },
        }
    }

    /// Joules since some moment that stays the same: only differences mean something. None where nothing is measured.
    pub fn read(&self) -> Option<f64> {
        self.counter.as_ref()?.joules()
    }

    /// Joules since an earlier reading.
    pub fn since(&self, earlier: Option<f64>) -> Option<f64> {
        // A counter that fell was set back (the driver was loaded anew): what was used since is not known.
        Some(self.read()? - earlier?).filter(|joules| *joules >= 0.0)
    }

    /// What is measured, or why nothing is, in one phrase.
    pub fn what(&self) -> &str {
        &self.what
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::device::Compute;
    use std::sync::atomic::{AtomicI64, Ordering::Relaxed};

    #[derive(Debug, Default)]
    struct Made(AtomicI64);

    impl Counter for Made {
        fn joules(&self) -> Option<f64> {
            let joules = self.0.load(Relaxed);
            (joules != -1).then_some(joules as f64)
        }
    }

    fn meter(joules: i64) -> Meter {
        Meter::of(Ok((Box::new(Made(joules.into())), "made up".into())))
    }

    #[test]
    fn a_difference_needs_two_readings_of_a_counter_that_did_not_fall() {
        assert_eq!(meter(1250).since(Some(1000.0)), Some(250.0));
        assert_eq!(meter(1250).since(None), None);
        assert_eq!(meter(1250).since(Some(1250.0)), Some(0.0));
        assert_eq!(meter(3).since(Some(1250.0)), None, "set back");
        assert_eq!(meter(-1).since(Some(1250.0)), None, "gone");
    }

    #[test]
    fn paper_takes_nothing_and_says_so() {
        for cuda in [false, true] {
            let meter = Meter::open(&Device::paper(Compute::Bf16, cuda));
            assert_eq!(meter.read(), None);
            assert!(meter.what().starts_with("not measured: "), "{}", meter.what());
        }
    }
}
