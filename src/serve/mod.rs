//! The `serve` command: a model behind HTTP, in the shape of OpenAI's chat completions.
