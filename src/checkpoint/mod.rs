//! What is read from and written to disk: Hugging Face model folders in, PEFT adapters, the ECI head and the state of a
//! run out and in again.
//!
//! Reading is by memory map and refuses in one sentence what it cannot use. Writing goes through [`save_files`] and
//! [`save_folder`]: a file appears under its own name only after it was flushed, read back and found equal to what was
//! to be saved, so an interruption or a full disk leaves the last good checkpoint standing.

mod adapter;
mod adapter_config;
mod bnb_folder;
mod bnb_format;
mod bnb_weight;
mod eci;
mod gguf_file;
mod host_tensor;
mod llama_config;
mod model_folder;
mod provenance;
mod run_state;
mod safe_write;
mod shards;
mod tensor_file;
mod tensor_writer;

#[cfg(test)]
mod fixtures;

pub use adapter::{LoraMatrix, check_adapter, load_adapter, lora_key, parse_lora_key, save_adapter, unread_tensors};
pub use adapter_config::AdapterConfig;
pub use bnb_format::StoredNf4;
pub use bnb_weight::{HostNf4, HostScales, HostWeight};
pub use eci::{EciConfig, Heads, has_heads, load_heads, save_heads};
pub use gguf_file::{GgufLayout, GgufMetadata, GgufSink, GgufTensor, GgufType, GgufValue, Q8_BLOCK};
pub use host_tensor::{HostDType, HostTensor, NamedTensor};
pub use llama_config::{LINEARS, LlamaConfig};
pub use model_folder::{Expected, ModelFolder, expected_tensors};
pub use provenance::{PROVENANCE_FILE, Provenance, base_fingerprint};
pub use run_state::{RunState, StateTensors, load_run_state, save_run_state};
pub use safe_write::{Saved, check_room, claim_output, last_good, new_file, new_folder, save_files, save_folder};
pub use shards::{Shards, Unit, write_dense_extras, write_quantised_extras, write_report};
pub use tensor_writer::{TensorSpec, TensorWriter};
