//! NF4 as bitsandbytes' files define it: block sizes and the two maps, bit for bit. What is done with them is in ops and
//! checkpoint.

/// Weights that share one scale.
pub const BLOCK: usize = 64;
/// Scales that share one scale, where they are quantised themselves.
pub const NESTED_BLOCK: usize = 256;

/// The sixteen values of NF4: bitsandbytes' `quant_map`.
#[rustfmt::skip]
pub const NF4_MAP: [f32; 16] = [
    -1.0, -0.696_192_8, -0.525_073_05, -0.394_917_5, -0.284_441_38, -0.184_773_43, -0.091_050_036, 0.0,
    0.079_580_3, 0.160_930_2, 0.246_112_3, 0.337_915_24, 0.440_709_83, 0.562_617, 0.722_956_84, 1.0,
];

/// The map of 8-bit scales: bitsandbytes' `nested_quant_map`, bit for bit.
pub fn nested_map() -> [f32; 256] {
    dynamic_map(true)
}

/// bitsandbytes' dynamic map of 8 bits, ascending, bit for bit. Unsigned, the sign's bit makes every grid twice as fine.
///
/// Seven decades, each the midpoints of a linear grid from 0.1 to 1 that is twice as fine as the decade below. The grid is
/// `torch.linspace`: each half counts from its own end with one fused multiply-add, which decides 42 last bits.
pub fn dynamic_map(signed: bool) -> [f32; 256] {
    let mut map = vec![0.0, 1.0];
    for decade in 0..7 {
        let n = if signed { 1 } else { 2 } << decade;
        let step = (1.0 - 0.1) / n as f32;
        let grid =
            |i: i32| if i < (n + 1) / 2 { step.mul_add(i as f32, 0.1) } else { (-step).mul_add((n - i) as f32, 1.0) };
        let scale = 10f64.powi(decade - 6) as f32;
        for i in 0..n {
            let value = scale * ((grid(i) + grid(i + 1)) / 2.0);
            map.push(value);
            if signed {
                map.push(-value);
            }
        }
    }
    map.sort_by(f32::total_cmp);
    map.try_into().expect("2 + 2 + 4 + .. + 128 entries")
}
