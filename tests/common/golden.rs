//! Golden files (tools/golden/common.py says what is in one) and the one rule of comparison.

use llamacare::device::{Compute, DType, Device, Kind, Tensor};
use safetensors::{Dtype, SafeTensors};
use std::collections::BTreeMap;
use std::path::Path;

/// One golden file, read whole.
pub struct Golden {
    op: String,
    tensors: BTreeMap<String, (Vec<usize>, Vec<f64>)>,
}

impl Golden {
    /// tests/golden/OP.safetensors
    pub fn load(op: &str) -> Golden {
        let path = Path::new(env!("CARGO_MANIFEST_DIR")).join(format!("tests/golden/{op}.safetensors"));
        let bytes = std::fs::read(&path).unwrap_or_else(|e| panic!("{}: {e}", path.display()));
        let file = SafeTensors::deserialize(&bytes).expect("a safetensors file");
        let tensors = file.tensors().into_iter().map(|(name, t)| {
            let values = match t.dtype() {
                Dtype::F64 => bytemuck::allocation::pod_collect_to_vec::<u8, f64>(t.data()),
                Dtype::F32 => {
                    bytemuck::allocation::pod_collect_to_vec::<u8, f32>(t.data()).into_iter().map(f64::from).collect()
                }
                Dtype::I32 => {
                    bytemuck::allocation::pod_collect_to_vec::<u8, i32>(t.data()).into_iter().map(f64::from).collect()
                }
                Dtype::U8 => t.data().iter().map(|&b| f64::from(b)).collect(),
                other => panic!("{name}: {other:?} in a golden file"),
            };
            (name.to_string(), (t.shape().to_vec(), values))
        });
        Golden { op: op.into(), tensors: tensors.collect() }
    }

    /// The cases of the file.
    pub fn cases(&self) -> Vec<String> {
        let mut cases: Vec<String> =
            self.tensors.keys().filter_map(|k| k.split_once(".in.").map(|(case, _)| case.to_string())).collect();
        cases.dedup();
        assert!(!cases.is_empty(), "{}: a golden file without cases", self.op);
        cases
    }

    fn get(&self, key: &str) -> &(Vec<usize>, Vec<f64>) {
        self.tensors.get(key).unwrap_or_else(|| panic!("{}: no {key} in the golden file", self.op))
    }

    /// Shape of an input.
    pub fn shape(&self, case: &str, name: &str) -> &[usize] {
        &self.get(&format!("{case}.in.{name}")).0
    }

    /// An input as floats.
    pub fn floats(&self, case: &str, name: &str) -> Vec<f32> {
        self.get(&format!("{case}.in.{name}")).1.iter().map(|&v| v as f32).collect()
    }

    /// An input as integers.
    pub fn ints(&self, case: &str, name: &str) -> Vec<i32> {
        self.get(&format!("{case}.in.{name}")).1.iter().map(|&v| v as i32).collect()
    }

    /// The fp64 truth of an output.
    pub fn expected(&self, case: &str, name: &str) -> &[f64] {
        &self.get(&format!("{case}.out.{name}")).1
    }

    /// PyTorch's own error in an output.
    pub fn torch_error(&self, case: &str, name: &str) -> f64 {
        self.get(&format!("{case}.err.{name}")).1[0]
    }

    /// An input on the device, in its storage type.
    pub fn act(&self, device: &Device, case: &str, name: &str) -> Tensor {
        self.upload(device, case, name, device.act())
    }

    /// An input on the device, in this type.
    pub fn upload(&self, device: &Device, case: &str, name: &str, dtype: DType) -> Tensor {
        device.upload(name, dtype, self.shape(case, name), &self.floats(case, name)).expect("an upload")
    }

    /// Holds a result to the fp64 truth. In bf16: at most `factor` (2; 3 for gradients) times PyTorch's own bf16 error,
    /// plus half a bf16 ulp, so that an exact PyTorch does not demand exactness of us. In fp32: 1e-5. NaN fails.
    pub fn check(&self, device: &Device, case: &str, name: &str, got: &Tensor, factor: f64) {
        let (shape, want) = self.get(&format!("{case}.out.{name}"));
        let torch = self.get(&format!("{case}.err.{name}")).1[0];
        assert_eq!(got.n_elems(), want.len(), "{} {case}.{name}: {:?}, golden {shape:?}", self.op, got.shape());
        let limit = match device.kind() {
            Kind::Cpu(Compute::Fp32) => 1e-5,
            _ => factor * torch + 1.0 / 512.0 * f64::from(u8::from(got.dtype() == DType::Bf16)) + 1e-6,
        };
        let got = got.read_f32().expect("a readable tensor");
        let error = relative_error(&got, want);
        let worst = (0..want.len()).max_by(|&i, &j| off(&got, want, i).total_cmp(&off(&got, want, j))).unwrap_or(0);
        assert!(
            error <= limit,
            "{} {case}.{name} on {}: error {error:.3e}, allowed {limit:.3e} (PyTorch's bf16: {torch:.3e}); worst at \
             {worst}: got {}, want {}",
            self.op,
            device.name(),
            got[worst],
            want[worst]
        );
    }
}

fn off(got: &[f32], want: &[f64], i: usize) -> f64 {
    (f64::from(got[i]) - want[i]).abs()
}

/// norm(got - want) / norm(want); NaN where `got` has one.
fn relative_error(got: &[f32], want: &[f64]) -> f64 {
    let difference: f64 = got.iter().zip(want).map(|(&g, &w)| (f64::from(g) - w).powi(2)).sum();
    let size: f64 = want.iter().map(|w| w * w).sum();
    difference.sqrt() / size.sqrt().max(1e-300)
}

#[test]
fn a_nan_in_a_result_fails_the_comparison() {
    let holds = relative_error(&[1.0, f32::NAN], &[1.0, 2.0]) <= 1e9;
    assert!(!holds);
}
