//! Ids to text as they come: a piece of text for each id, held back while it is half a character.

use super::tokenizer::TextTokenizer;
use crate::Result;

/// The text of a growing list of ids. All pieces together are what [`TextTokenizer::decode`] makes of all ids.
pub struct TextStream<'a> {
    tokenizer: &'a TextTokenizer,
    ids: Vec<u32>,
    /// Ids before this one are spoken and out of sight; those from it on are decoded with each new one, so that a blank between
    /// words is seen.
    seen: usize,
    /// Ids before this one are spoken.
    spoken: usize,
}

impl<'a> TextStream<'a> {
    pub(super) fn new(tokenizer: &'a TextTokenizer) -> TextStream<'a> {
        TextStream { tokenizer, ids: Vec::new(), seen: 0, spoken: 0 }
    }

    /// What the next id adds; nothing while a character is incomplete.
    pub fn push(&mut self, id: u32) -> Result<String> {
        self.ids.push(id);
        self.speak(false)
    }

    /// What was held back, an incomplete character as "\u{FFFD}".
    pub fn finish(&mut self) -> Result<String> {
        self.speak(true)
    }

    fn speak(&mut self, all: bool) -> Result<String> {
        let before = self.tokenizer.decode(&self.ids[self.seen..self.spoken])?;
        let text = self.tokenizer.decode(&self.ids[self.seen..])?;
        if text.len() <= before.len() || (text.ends_with('\u{FFFD}') && !all) {
            return Ok(String::new());
        }
        let piece = text[before.len()..].to_string();
        (self.seen, self.spoken) = (self.spoken, self.ids.len());
        Ok(piece)
    }
}
