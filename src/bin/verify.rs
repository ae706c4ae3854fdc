//! The `verify` command.

fn main() {}
