//! A GPU's own energy counter, through NVIDIA's management library. It comes with the driver and is loaded when it is asked for:
//! the binary starts where there is none.

use super::Counter;
use nvml_wrapper::Nvml;
use nvml_wrapper::error::NvmlError;

/// A board that counts. NVML's own, or one made up for a test.
trait Board: std::fmt::Debug + Send + Sync {
    /// Energy since the driver was loaded.
    fn millijoules(&self) -> Result<u64, NvmlError>;
}

/// NVML, and the place on the PCI bus of the GPU that is asked.
#[derive(Debug)]
struct OnBus {
    nvml: Nvml,
    bus_id: String,
}

impl Board for OnBus {
    fn millijoules(&self) -> Result<u64, NvmlError> {
        // By its place, not by a number: CUDA_VISIBLE_DEVICES and CUDA's own order number GPUs otherwise than NVML does.
        self.nvml.device_by_pci_bus_id(self.bus_id.as_str())?.total_energy_consumption()
    }
}

#[derive(Debug)]
struct Nvidia(Box<dyn Board>);

impl Counter for Nvidia {
    fn joules(&self) -> Option<f64> {
        self.0.millijoules().ok().map(|millijoules| millijoules as f64 / 1e3)
    }
}

/// The counter of the board at `bus_id` (`00000000:01:00.0`) and what it holds; or why there is none.
pub(super) fn open(bus_id: &str) -> Result<(Box<dyn Counter>, String), String> {
    match Nvml::init() {
        Ok(nvml) => of(Box::new(OnBus { nvml, bus_id: bus_id.into() })),
        Err(e) => Err(format!("NVML (libnvidia-ml.so.1, part of NVIDIA's driver) cannot be used: {e}")),
    }
}

fn of(board: Box<dyn Board>) -> Result<(Box<dyn Counter>, String), String> {
    match board.millijoules() {
        Ok(_) => {
            let what =
                "NVIDIA board, NVML counter (the whole board with its memory, and all that runs on it; not the host)";
            Ok((Box::new(Nvidia(board)), what.into()))
        }
        Err(NvmlError::NotSupported) => Err("this GPU has no energy counter (Volta and later have one)".into()),
        Err(e) => Err(format!("NVML does not give this GPU's energy: {e}")),
    }
}

#[cfg(test)]
mod tests {
    use super::super::Meter;
    use super::*;
    use std::sync::Mutex;

    /// Says one after another what it is told to.
    #[derive(Debug)]
    struct Made(Mutex<Vec<Result<u64, NvmlError>>>);

    impl Board for Made {
        fn millijoules(&self) -> Result<u64, NvmlError> {
            self.0.lock().unwrap().remove(0)
        }
    }

    fn meter(said: Vec<Result<u64, NvmlError>>) -> Meter {
        Meter::of(of(Box::new(Made(said.into()))))
    }

    #[test]
    fn millijoules_become_joules() {
        let meter = meter(vec![Ok(5_000_000), Ok(5_000_000), Ok(5_012_345)]);
        assert!(meter.what().starts_with("NVIDIA board, NVML counter"), "{}", meter.what());
        let before = meter.read();
        assert_eq!(before, Some(5000.0));
        let used = meter.since(before).unwrap();
        assert!((used - 12.345).abs() < 1e-9, "{used}");
    }

    #[test]
    fn a_board_that_cannot_or_can_no_longer_be_read_says_so() {
        let old = meter(vec![Err(NvmlError::NotSupported)]);
        assert_eq!(old.what(), "not measured: this GPU has no energy counter (Volta and later have one)");
        assert_eq!(old.read(), None);
        let lost = meter(vec![Ok(1), Ok(1), Err(NvmlError::GpuLost)]);
        let before = lost.read();
        assert_eq!((before, lost.since(before)), (Some(0.001), None));
        let refused = meter(vec![Err(NvmlError::NoPermission)]);
        assert!(refused.what().contains("does not give this GPU's energy: the current user"), "{}", refused.what());
    }

    #[test]
    fn a_machine_without_nvml_says_so() {
        // On a machine with one there is no GPU at this place either.
        let why = open("ffffffff:ff:1f.7").unwrap_err();
        assert!(why.contains("NVML"), "{why}");
    }
}
