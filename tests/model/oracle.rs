//! `verify` over the shared oracle cases, where they are at hand: logits, losses, gradients, optimiser steps, heads.

use llamacare::device::{Compute, Device};
use std::path::PathBuf;

/// The cases in the folder that LLAMACARE_SHARED names.
fn shared() -> Option<PathBuf> {
    let folder = PathBuf::from(std::env::var_os("LLAMACARE_SHARED")?).join("oracle/tiny_llama");
    folder.is_dir().then_some(folder)
}

#[test]
fn every_quantity_of_the_oracle_is_as_near_as_it_must_be() {
    let Some(folder) = shared() else {
        eprintln!("skipped: no oracle cases (LLAMACARE_SHARED names the folder that holds oracle/tiny_llama)");
        return;
    };
    for compute in [Compute::Bf16, Compute::Fp32] {
        let device = Device::cpu(compute).unwrap();
        let mut worst = Vec::new();
        let (lines, failed) = llamacare::verify::run(&device, &folder, |line| {
            if !line.passes() {
                worst.push(line.to_string());
            }
        })
        .unwrap();
        assert!(lines > 400, "only {lines} quantities were compared");
        assert_eq!(failed, 0, "{compute:?}:\n{}", worst.join("\n"));
    }
}
