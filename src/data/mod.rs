//! Record formats, prompt templates, tokenising, packing.
