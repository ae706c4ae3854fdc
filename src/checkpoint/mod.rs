//! Hugging Face model folders, PEFT adapters, the ECI head, crash-safe writing.
