//! What a decoder layer holds of its forward until its backward: the policies of the memory plan.
//!
//! The outputs of matrix products are dear to make again, so they are kept while they fit; norms and the gated product cost
//! one pass over memory and are always made again. Gate and up are nearly half of what is left (2 F of 6 C + 2 F numbers a
//! token), so it is they that are made smaller, moved away or made again, before a layer keeps its input alone.

use crate::checkpoint::LlamaConfig;
use crate::{Result, bail_input};
use std::fmt;

/// How one layer keeps what its backward needs. In the order of what they hold on the device, the most first.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Keep {
    /// The outputs of all products: 6 C + 2 F numbers a token. Nothing is computed twice but norms and gated products.
    Outputs,
    /// The same with gate and up in blocks of 8 bits: 6 C + F. The only policy that changes what is computed, by the
    /// rounding of those blocks.
    Eight,
    /// The same with gate and up moved to pinned host memory: 6 C, and the bus busy in the meantime.
    Host,
    /// Gate and up made again by their products: 6 C.
    GateUp,
    /// The layer's input alone, C: the layer runs again, but for its last product.
    Input,
}

impl Keep {
    /// All of them.
    pub const ALL: [Keep; 5] = [Keep::Outputs, Keep::Eight, Keep::Host, Keep::GateUp, Keep::Input];

    /// As flags, files and reports name it.
    pub fn name(self) -> &'static str {
        match self {
            Keep::Outputs => "outputs",
            Keep::Eight => "eight",
            Keep::Host => "host",
            Keep::GateUp => "gateup",
            Keep::Input => "input",
        }
    }

    /// Numbers of two bytes that a layer holds on the device for each token, but for LoRA's and attention's few.
    pub fn kept_per_token(self, c: &LlamaConfig) -> usize {
        let (q, kv) = (c.n_heads * c.head_dim, c.n_kv_heads * c.head_dim);
        // Two residuals, q, attention's output, k and v.
        let products = 2 * c.hidden + 2 * q + 2 * kv;
        match self {
            Keep::Outputs => products + 2 * c.intermediate,
            Keep::Eight => products + c.intermediate,
            Keep::Host | Keep::GateUp => products,
            Keep::Input => c.hidden,
        }
    }

    /// Whether the adapter is bit for bit that of [`Keep::Outputs`].
    pub fn is_exact(self) -> bool {
        self != Keep::Eight
    }
}

impl fmt::Display for Keep {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

/// The policies of a model's layers from the first on, as typed: `input`, or `host:12,outputs` for the first twelve layers
/// and the rest.
pub fn parse_layers(text: &str, n_layers: usize) -> Result<Vec<Keep>> {
    let names = Keep::ALL.map(Keep::name).join(", ");
    let mut layers = Vec::new();
    let parts: Vec<&str> = text.split(',').map(str::trim).collect();
    for (i, part) in parts.iter().enumerate() {
        let (name, count) = part.split_once(':').map_or((*part, None), |(name, count)| (name, Some(count)));
        let Some(keep) = Keep::ALL.into_iter().find(|k| k.name() == name) else {
            bail_input!(
                "--keep {text}: `{name}` is no policy; expected auto, or {names}, or a list such as host:12,outputs"
            );
        };
        let count = match count {
            None if i + 1 == parts.len() => n_layers.saturating_sub(layers.len()),
            None => bail_input!(
                "--keep {text}: how many layers are `{part}`? Only the last of a list goes without, as in host:12,outputs"
            ),
            Some(count) => match count.parse::<usize>() {
                Ok(count) => count,
                Err(_) => bail_input!("--keep {text}: `{count}` is not a number of layers"),
            },
        };
        layers.extend(std::iter::repeat_n(keep, count));
    }
    if layers.len() != n_layers {
        bail_input!("--keep {text}: that is {} layers, the model has {n_layers}", layers.len());
    }
    Ok(layers)
}

/// `host:12,outputs:28`
pub fn describe_layers(layers: &[Keep]) -> String {
    let runs = layers.chunk_by(|a, b| a == b).map(|run| format!("{}:{}", run[0], run.len()));
    runs.collect::<Vec<_>>().join(",")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lists_of_layers_are_read_and_written() {
        assert_eq!(parse_layers("input", 2).unwrap(), [Keep::Input; 2]);
        let mixed = parse_layers("host:2, eight:1,outputs", 5).unwrap();
        assert_eq!(mixed, [Keep::Host, Keep::Host, Keep::Eight, Keep::Outputs, Keep::Outputs]);
        assert_eq!(describe_layers(&mixed), "host:2,eight:1,outputs:2");
        assert_eq!(parse_layers(&describe_layers(&mixed), 5).unwrap(), mixed);
    }

    #[test]
    fn wrong_lists_are_refused() {
        let said = |text: &str| parse_layers(text, 4).unwrap_err().to_string();
        assert!(said("everything").contains("`everything` is no policy; expected auto, or outputs, eight, host"));
        assert!(said("host,outputs").contains("how many layers are `host`?"));
        assert!(said("host:x,outputs").contains("`x` is not a number of layers"));
        assert!(said("host:3").contains("that is 3 layers, the model has 4"));
        assert!(said("host:5,outputs").contains("that is 5 layers, the model has 4"));
    }
}
