//! The arguments of `serve`.

use std::time::Duration;

use clap::Parser;
use clap::builder::RangedU64ValueParser;

use super::which::{AtOnce, Which};
use crate::bytes;

/// Answers questions over HTTP, in the shape of OpenAI's chat completions; a page to try it is at its address.
///
/// Without --host it can be reached from this machine alone. Requests are neither written down nor shown.
#[derive(Clone, Debug, Parser)]
#[command(name = "serve", version)]
pub struct Serve {
    /// The model.
    #[command(flatten)]
    pub which: Which,
    /// What it holds.
    #[command(flatten)]
    pub at_once: AtOnce,
    /// What clients call the model [default: the name of the folder]
    #[arg(long, value_name = "NAME")]
    pub name: Option<String>,

    /// Address to listen at; with 0.0.0.0 every machine of the network can ask
    #[arg(long, value_name = "ADDRESS", default_value = "127.0.0.1", help_heading = "Network")]
    pub host: String,
    /// Port to listen at; 0: one that is free
    #[arg(long, value_name = "PORT", default_value_t = 8080, help_heading = "Network")]
    pub port: u16,
    /// Secret that clients must send as "Authorization: Bearer TEXT"; better in the environment variable LLAMACARE_TOKEN, which no
    /// list of processes shows
    #[arg(long, value_name = "TEXT", help_heading = "Network")]
    pub token: Option<String>,

    /// The largest request
    #[arg(long, value_name = "SIZE", default_value = "1MiB", value_parser = size, help_heading = "Limits")]
    pub max_body: usize,
    /// Requests that may wait or be answered at once; those beyond are refused
    #[arg(long, value_name = "N", default_value_t = 64, value_parser = RangedU64ValueParser::<usize>::new().range(1..=4096), help_heading = "Limits")]
    pub queue: usize,
    /// Seconds until an answer must be complete
    #[arg(long, value_name = "SECONDS", default_value = "300", value_parser = seconds, help_heading = "Limits")]
    pub timeout: Duration,
    /// New tokens of an answer at most, and where a request names no number
    #[arg(long, value_name = "TOKENS", default_value_t = 1024, value_parser = RangedU64ValueParser::<usize>::new().range(1..=65536), help_heading = "Limits")]
    pub max_new_tokens: usize,
}

fn size(text: &str) -> Result<usize, String> {
    match bytes::parse("--max-body", text).map_err(|e| e.to_string())? {
        0 => Err("expected more than nothing".into()),
        n => Ok(n),
    }
}

fn seconds(text: &str) -> Result<Duration, String> {
    match text.parse::<f64>() {
        Ok(seconds) if (0.001..=86400.0).contains(&seconds) => Ok(Duration::from_secs_f64(seconds)),
        _ => Err("expected seconds, from 0.001 to 86400".into()),
    }
}
