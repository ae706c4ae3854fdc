//! The command line: what was typed and what a configuration file says become one validated [`RunConfig`].
//!
//! Two stages, two types. [`Options`](options::Options) is *as typed*: every field may be missing, and the same struct is read
//! from flags (clap) and from a file (TOML), so a setting has one name and one description. [`RunConfig`] is *validated*:
//! every field has a value within its range, and nothing after it needs to ask again. Flags win over the file, the file
//! over the defaults.

pub mod chat;
pub mod config;
pub mod convert;
pub mod evaluate;
pub mod exit;
pub mod file;
pub mod finetune;
pub mod nearest;
pub mod numbers;
pub mod options;
pub mod recipe;
pub mod sections;
pub mod serve;
mod stages;
pub mod which;

pub use config::RunConfig;
pub use finetune::{Finetune, Start};
pub use recipe::{Recipe, Stage};
