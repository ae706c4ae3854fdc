//! `verify` over the shared oracle cases, where they are at hand: logits, losses, gradients, optimiser steps, heads.

use llamacare::device::{Compute, Device};
use std::path::{Path, PathBuf};

/// LLAMACARE_SHARED, or `shared` beside the checkout.
fn shared() -> Option<PathBuf> {
    let beside = || Path::new(env!("CARGO_MANIFEST_DIR")).with_file_name("shared");
    let folder = std::env::var_os("LLAMACARE_SHARED").map_or_else(beside, PathBuf::from).join("oracle/tiny_llama");
    folder.is_dir().then_some(folder)
}

#[test]
fn every_quantity_of_the_oracle_is_as_near_as_it_must_be() {
    let Some(folder) = shared() else {
        eprintln!("skipped: no shared oracle cases beside this checkout (set LLAMACARE_SHARED)");
        return;
    };
    for compute in [Compute::Bf16, Compute::Fp32] {
        let device = Device::cpu(compute).unwrap();
        let mut worst = Vec::new();
        let summary = llamacare::verify::run(&device, &folder, |line| {
            if !line.passes() {
                worst.push(line.to_string());
            }
        })
        .unwrap();
        assert!(summary.lines > 400, "only {} quantities were compared", summary.lines);
        assert_eq!((summary.failed, summary.refused.len()), (0, 0), "{compute:?}:\n{}", worst.join("\n"));
    }
}
