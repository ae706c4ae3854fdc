//! From files to micro-batches, in five steps, each a file of its own:
//!
//! 1. [`record`] reads PubMedQA, Alpaca and our own JSON lines into [`Record`]s; [`split`](mod@split) divides them; [`labels`] says
//!    what can be decided about each.
//! 2. [`prompt`] renders a record into an [`Example`], prompt and completion: by a [`template`] that can be changed, in a [`layout`],
//!    with examples before it.
//! 1. [`load`](mod@load) reads a file of any of the [`formats`] into [`Record`]s; [`split`](mod@split) divides them.
//! 2. [`template`] renders a record into an [`Example`], prompt and completion, by a file that can be changed.
//! 3. [`tokenizer`] and [`tokenize`](mod@tokenize) turn examples into ids: one BOS, the prompt, the completion, one EOS.
//! 4. [`pack`](mod@pack) lays rows end to end into [`MicroBatch`]es that fill a [`Room`], without padding.
//! 5. [`decision`] reads the label back out of what the model wrote.
//!
//! [`lint`](mod@lint) says what is wrong with the rows before any of them is trained on; [`leak`] whether two ask the same.
//!
//! Nothing is dropped, cut or guessed without a word: what cannot be used is an error that names file and row, and what
//! the user allowed to be dropped or shortened is counted in [`Dropped`].

pub mod decision;
pub mod formats;
pub mod labels;
pub mod layout;
pub mod leak;
pub mod lint;
pub mod load;
pub mod pack;
pub mod prompt;
pub mod random;
pub mod record;
pub mod room;
pub mod sentences;
pub mod split;
pub mod stream;
pub mod template;
pub mod tokenize;
pub mod tokenizer;

mod rows;

pub(crate) use rows::kind as kind_of_value;

#[cfg(test)]
pub(crate) mod testing;

pub use decision::parse_decision;
pub use formats::Format;
pub use labels::{Class, LabelSet, class_of, label_sets};
pub use layout::Layout;
pub use leak::{leaked, row_hash, row_key};
pub use lint::{Kind, LintOptions, LintReport, Linted, Severity, TokenRules, lint};
pub use load::{Loaded, load, read, read_column, read_text};
pub use pack::{MicroBatch, efficiency, pack, pack_rows, rows_of_epoch};
pub use prompt::{Example, Prompt};
pub use random::SplitMix64;
pub use record::{Choice, Exchange, Record};
pub use room::{MOST_HEADS, MicroShape, Room, largest_shapes};
pub use split::{Share, split, split_by_ids};
pub use stream::TextStream;
pub use template::Template;
pub use tokenize::{Dropped, OverLong, Tokenized, Tokenizing};
pub use tokenizer::TextTokenizer;
