//! The model, composed of operations: Llama's decoder on a frozen base with LoRA, and the ECI head.

mod batch;
mod eci;
mod llama;
mod load;
mod params;

pub use batch::Batch;
pub use eci::{EciHead, EciPlan};
pub use llama::{Llama, RunOptions};
pub use load::{LoraSpec, Quantise, load};
pub use params::{Group, Init, ParamIndex, Params, ParamsBuilder};
