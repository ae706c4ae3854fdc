//! The model, composed of operations: Llama's decoder on a frozen base with LoRA, and the ECI head.

mod adapter;
mod batch;
mod cache;
mod eci;
mod flat;
pub mod frozen;
mod keep;
mod llama;
mod load;
mod params;
mod weights;

pub use adapter::{adapter_tensors, head_tensors, put_adapter, put_head, unpad};
pub use batch::Batch;
pub use cache::KvCache;
pub use eci::{EciHead, EciPlan, class_probabilities, softmax};
pub use flat::OptimiserStates;
pub use keep::{Keep, describe_layers, parse_layers};
pub use llama::{Llama, RunOptions};
pub use load::{Frozen, LoraSpec, Products, Quantise, load, tokenizer};
pub use params::{Group, HostMasters, Init, ParamIndex, Params, ParamsBuilder};
pub use weights::Source;
