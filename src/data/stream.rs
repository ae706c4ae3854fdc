//! Ids to text as they come: a piece of text for each id, held back while later ids may change it.
//!
//! Two things change what was there. A character may be split over ids, and is then shown as U+FFFD until it is whole. And a
//! vocabulary with bytes for what it has no piece for (Llama-2's) decodes a run of bytes as a whole: one invalid byte makes U+FFFD of every
//! byte of its run, the valid ones before it included. So a run of bytes is held back until it has ended.

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
        if !all && self.tokenizer.ends_in_byte(&self.ids[self.seen..]) {
            return Ok(String::new());
        }
        let before = self.tokenizer.decode(&self.ids[self.seen..self.spoken])?;
        let text = self.tokenizer.decode(&self.ids[self.seen..])?;
        let piece = text.get(before.len()..).unwrap_or_default();
        if piece.is_empty() || (piece.ends_with('\u{FFFD}') && !all) {
            return Ok(String::new());
        }
        (self.seen, self.spoken) = (self.spoken, self.ids.len());
        Ok(piece.to_string())
    }
}

#[cfg(test)]
mod tests {
    use super::super::random::SplitMix64;
    use super::super::testing::{EOS, byte_level, llama_like};
    use super::*;

    /// The pieces of `ids`, the last one that of the end.
    fn pieces(tokenizer: &TextTokenizer, ids: &[u32]) -> Vec<String> {
        let mut stream = tokenizer.stream();
        let mut pieces: Vec<String> = ids.iter().map(|&id| stream.push(id).unwrap()).collect();
        pieces.push(stream.finish().unwrap());
        pieces
    }

    #[test]
    fn the_pieces_of_any_ids_are_their_text() {
        for tokenizer in [llama_like(), byte_level()] {
            let mut random = SplitMix64::new(7, 0);
            for n in 0..3000 {
                // Bytes stand at 3 to 258 in both; every third list has little else.
                let below = if n % 3 == 0 { 262 } else { tokenizer.vocab_size() };
                let ids: Vec<u32> = (0..random.below(24)).map(|_| random.below(below) as u32).collect();
                let mut pieces = pieces(&tokenizer, &ids);
                assert_eq!(pieces.concat(), tokenizer.decode(&ids).unwrap(), "{ids:?}");
                pieces.pop();
                assert!(pieces.iter().all(|piece| !piece.ends_with('\u{FFFD}')), "{ids:?}: {pieces:?}");
            }
        }
    }

    #[test]
    fn any_text_comes_whole_and_none_of_its_characters_in_halves() {
        for tokenizer in [llama_like(), byte_level()] {
            for text in
                ["Fin in a", "  two  blanks ", "Übelkeit: 5 µg\n\n\tΔp 痛みは? 🩺🩺 end", "🩺", " ", "a\u{FFFD}b"]
            {
                let ids = tokenizer.encode_prompt(text).unwrap();
                let pieces = pieces(&tokenizer, &ids[1..]);
                assert_eq!(pieces.concat(), tokenizer.decode(&ids).unwrap(), "{text:?}");
                let split = |piece: &String| piece.contains('\u{FFFD}') && !text.contains('\u{FFFD}');
                assert!(!pieces.iter().any(split), "{pieces:?}");
            }
        }
    }

    #[test]
    fn text_comes_as_soon_as_nothing_can_change_it() {
        let tokenizer = byte_level();
        let ids = tokenizer.encode_prompt("aé b").unwrap();
        assert_eq!(pieces(&tokenizer, &ids[1..]), ["a", "", "é", " ", "b", ""]);
        let tokenizer = llama_like();
        let ids = tokenizer.encode_prompt("aé b").unwrap();
        // The bytes of é come with what ends their run.
        assert_eq!(pieces(&tokenizer, &ids[1..]), ["a", "", "", "é ", "b", ""]);
    }

    #[test]
    fn an_invalid_byte_takes_its_run_along_and_nothing_before() {
        let tokenizer = llama_like();
        let byte = |byte: u32| 3 + byte;
        let a = tokenizer.encode_prompt("a").unwrap()[1];
        // A valid byte, then one that no character begins with; a special token within shows nothing and ends no run.
        let ids = [a, byte(0x41), EOS, byte(0xFF), a, a];
        assert_eq!(pieces(&tokenizer, &ids), ["a", "", "", "", "\u{FFFD}\u{FFFD} a", " a", ""]);
        assert_eq!(pieces(&tokenizer, &[byte(0xE2), byte(0x82)]), ["", "", "\u{FFFD}\u{FFFD}"]);
    }
}
