//! The ECI head (Extended Classification Integration, LlamaCare): a classifier on the decoder's last hidden states, in
//! parallel with the text. It sees the prompt only, since the answer would tell it the label.
//!
//! Kind `paper` is the published Head1: MaxPool 8 and AvgPool 8 over the hidden axis, positions side by side, then linear
//! layers with LeakyReLU. `mean`, `last` and `max` pool over the prompt's tokens and put an MLP behind.

use crate::checkpoint::EciConfig;
use crate::model::{Group, Init, ParamIndex, Params, ParamsBuilder};
use crate::ops::activation::{Activation, activation};
use crate::ops::dense::dense;
use crate::ops::eci_pool::eci_pool;
use crate::ops::token_pool::{TokenPool, token_pool};
use crate::tape::{Param, Tape, Var};
use crate::{Error, Result, bail_input};

/// The head's layers; all fp32.
pub struct EciHead {
    /// Kind, sizes, labels.
    pub config: EciConfig,
    /// The published code's fault, for comparison: the activation also after the last layer, on the logits.
    pub leaky_logits: bool,
    layers: Vec<(Param, Param)>,
    activation: Activation,
}

/// The head's place in a [`ParamsBuilder`].
pub struct EciPlan {
    config: EciConfig,
    layers: Vec<(ParamIndex, ParamIndex)>,
}

impl EciPlan {
    /// Says that at most `rows` sequences reach the head in an optimiser step: the first layer, which is the wide one, then
    /// keeps the factors of its gradient where they are smaller. Gives back whether it does.
    pub fn factor(&self, builder: &mut ParamsBuilder, rows: usize) -> bool {
        self.layers.first().is_some_and(|(weight, _)| builder.factor(*weight, rows))
    }
}

impl EciHead {
    /// Registers the head's parameters, with PyTorch's default initialisation of a linear layer: uniform in ±1/sqrt(in).
    pub fn plan(builder: &mut ParamsBuilder, config: &EciConfig) -> Result<EciPlan> {
        let shapes = config.shapes();
        let mut layers = Vec::new();
        for pair in shapes.chunks(2) {
            let [(weight, shape), (bias, _)] = pair else { unreachable!("a weight and a bias per layer") };
            let (n_out, n_in) = (shape[0], shape[1]);
            let uniform = |rows, cols| Init::Uniform { bound: 1.0 / (n_in as f32).sqrt(), rows, cols };
            let w = builder.add(Group::Head, format!("head.{}.{weight}", config.name), shape, uniform(n_out, n_in));
            let b = builder.add(Group::Head, format!("head.{}.{bias}", config.name), &[n_out], uniform(1, n_out));
            layers.push((w, b));
        }
        Ok(EciPlan { config: config.clone(), layers })
    }

    /// The head over the allocated parameters.
    pub fn new(plan: EciPlan, params: &Params) -> Result<EciHead> {
        let c = &plan.config;
        let activation = match c.activation.as_str() {
            "leaky_relu" => Activation::LeakyRelu(c.slope),
            "relu" => Activation::Relu,
            "gelu" => Activation::Gelu,
            "tanh" => Activation::Tanh,
            "silu" => Activation::Silu,
            other => bail_input!("ECI activation `{other}`: expected leaky_relu, relu, gelu, tanh or silu"),
        };
        let layers = plan.layers.iter().map(|&(w, b)| (params.get(w), params.get(b))).collect();
        Ok(EciHead { config: plan.config, leaky_logits: false, layers, activation })
    }

    /// That a prompt of this many tokens is not too long for the head.
    pub fn expect_prompt(&self, n_tokens: usize) -> Result<()> {
        let most = self.config.positions;
        if self.config.kind == "paper" && n_tokens > most {
            bail_input!(
                "the question has {n_tokens} tokens with all that stands before it, the head {} has room for {most}; shorten it, or \
                 ask without a label",
                self.config.name
            );
        }
        Ok(())
    }

    /// What the first layer reads: [S, features] fp32. `n_keep` [S]: the first tokens of each sequence that count.
    pub fn pool(&self, tape: &mut Tape, hidden: &Var, cu_seqlens: &[i32], n_keep: &[i32]) -> Result<Var> {
        let kind = match self.config.kind.as_str() {
            "paper" => return eci_pool(tape, hidden, cu_seqlens, n_keep, self.config.positions),
            "mean" => TokenPool::Mean,
            "last" => TokenPool::Last,
            "max" => TokenPool::Max,
            other => bail_input!("ECI kind `{other}`: expected paper, mean, last or max"),
        };
        token_pool(tape, hidden, cu_seqlens, n_keep, kind)
    }

    /// Class logits [S, n_class] from the pooled features.
    pub fn classify(&self, tape: &mut Tape, features: &Var) -> Result<Var> {
        let mut x = features.clone();
        for (i, (w, b)) in self.layers.iter().enumerate() {
            x = dense(tape, &x, w, b)?;
            if i + 1 < self.layers.len() || self.leaky_logits {
                x = activation(tape, &x, self.activation)?;
            }
        }
        Ok(x)
    }

    /// Pool, then classify.
    pub fn forward(&self, tape: &mut Tape, hidden: &Var, cu_seqlens: &[i32], n_keep: &[i32]) -> Result<Var> {
        let features = self.pool(tape, hidden, cu_seqlens, n_keep)?;
        self.classify(tape, &features)
    }
}

/// Probabilities of classes from a row's logits. One that is no number is an error.
pub fn class_probabilities(logits: &[f32]) -> Result<Vec<f64>> {
    if logits.iter().any(|logit| !logit.is_finite()) {
        return Err(Error::NotFinite("a class logit is not a number; the adapter or the base is damaged".into()));
    }
    Ok(softmax(&logits.iter().map(|logit| f64::from(*logit)).collect::<Vec<_>>()))
}

/// Shares of a whole, from their logarithms.
pub fn softmax(logs: &[f64]) -> Vec<f64> {
    let greatest = logs.iter().copied().fold(f64::NEG_INFINITY, f64::max);
    let shares: Vec<f64> = logs.iter().map(|log| (log - greatest).exp()).collect();
    let sum: f64 = shares.iter().sum();
    shares.iter().map(|share| share / sum).collect()
}
