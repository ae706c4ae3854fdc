//! Weights from a folder to the device: what bitsandbytes saved is what we would have quantised, and decodes as that does.

use crate::common::for_each_device;
use llamacare::checkpoint::{Expected, HostNf4, HostWeight, ModelFolder, expected_tensors};
use llamacare::device::{DType, Device};
use llamacare::model::frozen::{fill_nf4, upload_exact, write_dense};
use llamacare::ops::nf4::{Nf4Weight, Scales, nested_map_on};
use std::path::Path;

/// A folder of tools/golden/convert.py.
fn folder(kind: &str) -> ModelFolder {
    ModelFolder::open(&Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/golden/convert").join(kind))
        .expect("a golden folder")
}

fn linears(folder: &ModelFolder) -> Vec<(String, [usize; 2])> {
    let linear = |e| if let Expected::Linear(name, shape) = e { Some((name, shape)) } else { None };
    expected_tensors(folder.config()).into_iter().filter_map(linear).collect()
}

fn nf4<'a>(folder: &'a ModelFolder, name: &str, shape: [usize; 2]) -> HostNf4<'a> {
    match folder.linear(name, shape).expect("a weight") {
        HostWeight::Nf4(weight) => weight,
        HostWeight::Dense(_) => panic!("{name} is dense"),
    }
}

fn bytes_of(weight: &Nf4Weight) -> Vec<Vec<u8>> {
    let scales = match weight.scales() {
        Scales::Plain(absmax) => vec![absmax],
        Scales::Double { codes, nested_absmax, map, offset } => vec![codes, nested_absmax, map, offset],
    };
    [vec![weight.packed()], scales].concat().into_iter().map(|t| t.read_bytes().expect("bytes")).collect()
}

#[test]
fn a_folder_of_bitsandbytes_is_what_quantising_its_source_gives() {
    let dense = folder("dense");
    for_each_device(|device| {
        let map = nested_map_on(device).expect("a map");
        for kind in ["double", "plain"] {
            let theirs = folder(kind);
            for (name, shape) in linears(&theirs) {
                let source =
                    upload_exact(device, "source", &dense.tensor(&name, &shape).expect("a weight")).expect("memory");
                let ours = Nf4Weight::quantize(&source, (kind == "double").then_some(&map)).expect("a weight");
                let host = nf4(&theirs, &name, shape);
                let theirs = Nf4Weight::empty(device, shape, (kind == "double").then_some(&map)).expect("memory");
                fill_nf4(&theirs, &host).expect("a copy");
                assert!(bytes_of(&ours) == bytes_of(&theirs), "{kind} {name} on {}", device.name());
                let decoded = |w: &Nf4Weight| w.dequantize("decoded").and_then(|t| t.read_bytes()).expect("values");
                assert!(decoded(&ours) == decoded(&theirs), "{kind} {name}");
                assert_decodes_near(&theirs, &source.read_f32().expect("values"), device);
            }
        }
    });
}

/// NF4's error on normal weights is 0.09; on the wrong weight, or one that lies transposed, it would be above 1.
fn assert_decodes_near(weight: &Nf4Weight, source: &[f32], device: &Device) {
    let y = device.empty("y", device.act(), &weight.shape()).expect("memory");
    weight.dequantize_into(&y).expect("a launch");
    let norm = |x: &mut dyn Iterator<Item = f32>| x.map(|x| f64::from(x * x)).sum::<f64>().sqrt();
    let decoded = y.read_f32().expect("values");
    let error = norm(&mut decoded.iter().zip(source).map(|(a, b)| a - b)) / norm(&mut source.iter().copied());
    assert!(error < 0.12, "{error}");
}

#[test]
fn dense_values_arrive_exactly_or_rounded_once() {
    let dense = folder("dense");
    let host = dense.tensor("model.embed_tokens.weight", &[40, 64]).expect("the embedding");
    for_each_device(|device| {
        for dtype in [DType::Bf16, DType::F32] {
            let t = device.empty("t", dtype, &[40, 64]).expect("memory");
            write_dense(&t, &host).expect("a copy");
            assert!(t.read_f32().expect("values") == host.to_f32(), "{dtype:?} on {}", device.name());
        }
    });
}
