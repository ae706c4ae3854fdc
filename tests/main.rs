//! All tests of the crate from outside, in one binary: one link.

mod common;
mod machine;
mod model;
mod ops;
mod rules;
