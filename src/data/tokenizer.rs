//! A model's `tokenizer.json`, with the three traps of fine-tuning closed.
//!
//! 1. *Special tokens in text.* A record that contains "</s>" must not stop the model: text is always text here, and
//!    BOS and EOS are set by id, one each.
//! 2. *The blank before a text.* SentencePiece tokenizers (Llama-2) put a "▁" before whatever they encode. Before a prompt
//!    that is right, base models have seen it; before a completion it would teach a blank that generation then shows. So a
//!    completion is encoded behind a line break, whose tokens are then taken off.
//! 3. *Silent truncation.* Some published files have truncation or padding switched on; both are switched off.

use std::collections::HashSet;
use std::path::Path;

use tokenizers::Tokenizer;

use super::layout::Turns;
use super::stream::TextStream;
use crate::{Error, Result, bail_input};

/// Text to ids and back, for one model.
#[derive(Clone, Debug)]
pub struct TextTokenizer {
    tokenizer: Tokenizer,
    /// The ids of "\n" alone, as [`TextTokenizer::encode_completion`] takes them off.
    line_break: Vec<u32>,
    /// Never shown: BOS, EOS and what the file calls special.
    special: HashSet<u32>,
    bos: u32,
    eos: u32,
    vocab_size: usize,
}

impl TextTokenizer {
    /// Reads `tokenizer.json`, or the one in a model folder. `bos`, `eos` and `vocab_size` (rows of the embedding) are
    /// the model's, from its config.json.
    pub fn load(path: &Path, bos: u32, eos: u32, vocab_size: usize) -> Result<TextTokenizer> {
        let path = if path.is_dir() { path.join("tokenizer.json") } else { path.to_path_buf() };
        let file = path.display();
        if !path.is_file() {
            bail_input!("{file}: no such file; copy the tokenizer.json of the model there");
        }
        let read = Tokenizer::from_file(&path);
        let mut tokenizer = read.map_err(|e| Error::Input(format!("{file} is not a tokenizer: {e}")))?;
        let n_tokens = tokenizer.get_vocab(true).into_values().max().map_or(0, |id| id as usize + 1);
        if n_tokens > vocab_size {
            bail_input!(
                "{file} has {n_tokens} tokens, but the embedding of the model only {vocab_size} rows; \
                 use the tokenizer that belongs to the model"
            );
        }
        for (name, id) in [("bos_token_id", bos), ("eos_token_id", eos)] {
            if id as usize >= vocab_size {
                bail_input!("{name} {id} is outside the {vocab_size} tokens of the model; mend its config.json");
            }
        }
        tokenizer.set_encode_special_tokens(true);
        tokenizer.with_padding(None);
        tokenizer.with_truncation(None).map_err(|e| Error::Input(format!("{file}: {e}")))?;
        let added = tokenizer.get_added_tokens_decoder().into_iter();
        let special = added.filter(|(_, token)| token.special).map(|(id, _)| id).chain([bos, eos]).collect();
        let mut this = TextTokenizer { tokenizer, line_break: Vec::new(), special, bos, eos, vocab_size };
        this.line_break = this.encode("\n")?;
        Ok(this)
    }

    /// BOS and the ids of a prompt: in training, evaluation and chat the same.
    pub fn encode_prompt(&self, text: &str) -> Result<Vec<u32>> {
        Ok([vec![self.bos], self.encode(text)?].concat())
    }

    /// The ids of what was said before, each exchange between a BOS and an EOS of its own, and of the prompt.
    pub fn encode_turns(&self, turns: &Turns) -> Result<Vec<u32>> {
        let mut ids = Vec::new();
        for exchange in &turns.before {
            ids.extend(self.encode_prompt(&exchange.asked)?);
            ids.extend(self.encode_completion(&exchange.answered)?);
        }
        ids.extend(self.encode_prompt(&turns.prompt)?);
        Ok(ids)
    }

    /// The ids of a completion, which follows a prompt without a blank between, and EOS.
    pub fn encode_completion(&self, text: &str) -> Result<Vec<u32>> {
        let behind_line_break = self.encode(&format!("\n{text}"))?;
        // A byte-level vocabulary may join the line break to one that follows; but it puts no blank before a text either.
        let mut ids = match behind_line_break.strip_prefix(self.line_break.as_slice()) {
            Some(ids) => ids.to_vec(),
            None => self.encode(text)?,
        };
        ids.push(self.eos);
        Ok(ids)
    }

    /// Ids as text; special tokens are left out.
    ///
    /// By id: the crate goes by name, and does not know "</s>" again where Llama-2's file has it normalised to "▁</s>".
    pub fn decode(&self, ids: &[u32]) -> Result<String> {
        let shown: Vec<u32> = ids.iter().copied().filter(|id| !self.special.contains(id)).collect();
        self.tokenizer.decode(&shown, false).map_err(|e| Error::Input(format!("ids that do not decode: {e}")))
    }

    /// Whether the last of the ids that are shown stands for one byte, which ids behind it may join to a character.
    pub(super) fn ends_in_byte(&self, ids: &[u32]) -> bool {
        let shown = ids.iter().rev().find(|id| !self.special.contains(id));
        let piece = shown.and_then(|&id| self.tokenizer.id_to_token(id));
        // The form that byte fallback writes and its decoder reads.
        piece.is_some_and(|piece| piece.len() == 6 && piece.starts_with("<0x") && piece.ends_with('>'))
    }

    /// Ids as text while they come.
    pub fn stream(&self) -> TextStream<'_> {
        TextStream::new(self)
    }

    /// The id that begins every row.
    pub fn bos(&self) -> u32 {
        self.bos
    }

    /// The id that ends every completion.
    pub fn eos(&self) -> u32 {
        self.eos
    }

    /// Rows of the model's embedding: every id is less.
    pub fn vocab_size(&self) -> usize {
        self.vocab_size
    }

    fn encode(&self, text: &str) -> Result<Vec<u32>> {
        let encoding = self.tokenizer.encode_fast(text, false);
        Ok(encoding.map_err(|e| Error::Input(format!("text that does not encode: {e}")))?.get_ids().to_vec())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::data::testing::{BOS, EOS, byte_level, file, llama_like, sentence, shared};

    fn joined(tok: &TextTokenizer, prompt: &str, completion: &str) -> Vec<u32> {
        [tok.encode_prompt(prompt).unwrap(), tok.encode_completion(completion).unwrap()].concat()
    }

    #[test]
    fn a_completion_follows_its_prompt_without_a_blank() {
        for tok in [llama_like(), byte_level()] {
            for (prompt, completion) in [("a?\n", "Fin in a"), ("a:\n", " Fin"), ("Q:", "Fin\nFin"), ("é\n", "ü")] {
                let ids = joined(&tok, prompt, completion);
                assert_eq!(tok.decode(&ids).unwrap(), format!("{prompt}{completion}"));
                let n_prompt = tok.encode_prompt(prompt).unwrap().len();
                assert_eq!(tok.decode(&ids[n_prompt..]).unwrap().trim_start(), completion.trim_start());
            }
        }
        let tok = llama_like();
        let fin = tok.tokenizer.token_to_id("Fin").unwrap();
        assert_eq!(tok.encode_completion("Fin").unwrap(), [fin, EOS]);
        assert_eq!(tok.encode_prompt("Fin").unwrap(), [BOS, tok.tokenizer.token_to_id("▁Fin").unwrap()]);
    }

    #[test]
    fn a_completion_that_begins_with_a_line_break_is_kept_whole() {
        for tok in [llama_like(), byte_level()] {
            assert_eq!(tok.decode(&joined(&tok, "a\n", "\nFin")).unwrap(), "a\n\nFin");
        }
    }

    #[test]
    fn special_tokens_in_text_are_text() {
        for tok in [llama_like(), byte_level()] {
            let ids = joined(&tok, "<s>a</s>\n", "<unk></s>in");
            let count = |id| ids.iter().filter(|&&i| i == id).count();
            assert_eq!((count(BOS), count(EOS), count(0)), (1, 1, 0));
            assert_eq!((ids[0], ids[ids.len() - 1]), (BOS, EOS));
            assert_eq!(tok.decode(&ids).unwrap(), "<s>a</s>\n<unk></s>in");
        }
    }

    #[test]
    fn truncation_and_padding_of_the_file_do_not_act() {
        let ids = byte_level().encode_prompt("abcdefghijkl").unwrap();
        assert_eq!(ids.len(), 13);
    }

    #[test]
    fn a_tokenizer_that_does_not_fit_the_model_is_found() {
        let tok = llama_like();
        let text = tok.tokenizer.to_string(false).unwrap();
        let n = tok.vocab_size;
        let said = sentence(|path| TextTokenizer::load(path, BOS, EOS, n - 1), &text);
        let expected = format!("FILE has {n} tokens, but the embedding of the model only {} rows; ", n - 1);
        assert!(said.starts_with(&expected), "{said}");
        let said = sentence(|path| TextTokenizer::load(path, BOS, 99999, n), &text);
        assert!(said.starts_with("eos_token_id 99999 is outside the "), "{said}");
        let said = sentence(|path| TextTokenizer::load(path, BOS, EOS, n), "{");
        assert!(said.starts_with("FILE is not a tokenizer: EOF"), "{said}");
        let (folder, _path) = file("other.json", "{}");
        let said = TextTokenizer::load(folder.path(), BOS, EOS, n).unwrap_err().to_string();
        assert!(said.ends_with("tokenizer.json: no such file; copy the tokenizer.json of the model there"), "{said}");
    }

    #[test]
    fn the_real_llama_2_tokenizer_joins_as_it_encodes_the_whole() {
        let Some(folder) = shared("llama2_tokenizer") else { return };
        let tok = TextTokenizer::load(&folder, BOS, EOS, 32000).unwrap();
        // SentencePiece's own ids of "Answer:\nFindings: no" are ▁Answer : <0x0A> F ind ings : ▁no.
        assert_eq!(tok.encode_prompt("Answer:\n").unwrap(), [1, 673, 29901, 13]);
        let whole = tok.encode_prompt("Answer:\nFindings: Δψ fell,  no </s>").unwrap();
        let ids = joined(&tok, "Answer:\n", "Findings: Δψ fell,  no </s>");
        assert_eq!(ids, [whole, vec![EOS]].concat());
        assert_eq!(tok.decode(&ids).unwrap(), "Answer:\nFindings: Δψ fell,  no </s>");
    }
}
