//! Sizes of memory as people write them: `24GiB`, `512 MiB`, `24GB`.

use crate::{Result, bail_input};

const UNITS: [(&str, u64); 9] = [
    ("KiB", 1 << 10),
    ("MiB", 1 << 20),
    ("GiB", 1 << 30),
    ("TiB", 1 << 40),
    ("kB", 1_000),
    ("MB", 1_000_000),
    ("GB", 1_000_000_000),
    ("TB", 1_000_000_000_000),
    ("B", 1),
];

/// The number of bytes in `text`, which `name` (a flag or a field) was set to. A unit is a must: "24" would be bytes to
/// one reader and gigabytes to another.
pub fn parse(name: &str, text: &str) -> Result<usize> {
    let found = UNITS.iter().find_map(|&(unit, size)| {
        let number: f64 = text.trim().strip_suffix(unit)?.trim().parse().ok()?;
        Some(number * size as f64)
    });
    match found {
        Some(n_bytes) if n_bytes >= 1.0 && n_bytes < 2f64.powi(60) => Ok(n_bytes as usize),
        _ => bail_input!("{name} = {text:?}: expected an amount of memory with its unit, such as 24GiB or 512MiB"),
    }
}

/// The shortest exact way to write `n_bytes` that [`parse`] reads back: 25769803776 is "24GiB".
pub fn exact(n_bytes: usize) -> String {
    let binary = UNITS[..4].iter().rev().find(|(_, size)| n_bytes > 0 && (n_bytes as u64).is_multiple_of(*size));
    let (unit, size) = binary.unwrap_or(&("B", 1));
    format!("{}{unit}", n_bytes as u64 / size)
}

/// `n_bytes` for a reader: three digits and a binary unit, "1.44 GiB".
pub fn readable(n_bytes: usize) -> String {
    let mut value = n_bytes as f64;
    if value < 1024.0 {
        return format!("{n_bytes} B");
    }
    for (unit, _) in &UNITS[..4] {
        value /= 1024.0;
        if value < 999.5 || *unit == "TiB" {
            let digits = if value < 9.995 { 2 } else { usize::from(value < 99.95) };
            return format!("{value:.digits$} {unit}");
        }
    }
    unreachable!("the loop ends at TiB")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sizes_are_read_with_their_unit() {
        assert_eq!(parse("budget", "24GiB").unwrap(), 24 << 30);
        assert_eq!(parse("budget", " 1.5 MiB ").unwrap(), 3 << 19);
        assert_eq!(parse("budget", "24GB").unwrap(), 24_000_000_000);
        assert_eq!(parse("budget", "7B").unwrap(), 7);
    }

    #[test]
    fn a_size_without_a_unit_or_without_sense_is_refused() {
        for text in ["24", "GiB", "-1GiB", "nanGiB", "0GiB", "1e30GiB", "24 apples", ""] {
            let error = parse("--budget", text).unwrap_err();
            assert_eq!(error.exit_code(), 2);
            assert!(error.to_string().starts_with("--budget = "), "{error}");
        }
    }

    #[test]
    fn what_is_written_reads_back() {
        for n_bytes in [1, 1023, 1 << 10, 3 << 19, 24 << 30, 24_000_000_000, 1 << 41] {
            assert_eq!(parse("budget", &exact(n_bytes)).unwrap(), n_bytes);
        }
        assert_eq!(exact(24 << 30), "24GiB");
    }

    #[test]
    fn readable_sizes_have_three_digits() {
        assert_eq!(readable(0), "0 B");
        assert_eq!(readable(1023), "1023 B");
        assert_eq!(readable(1024), "1.00 KiB");
        assert_eq!(readable(1_550_000_000), "1.44 GiB");
        assert_eq!(readable(24 << 30), "24.0 GiB");
        assert_eq!(readable(1_047_527_424), "999 MiB");
        assert_eq!(readable(1_048_000_000), "999 MiB");
        assert_eq!(readable(1_048_500_000), "0.98 GiB");
    }
}
