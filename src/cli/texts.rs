//! Texts of a column, most of which come again and again.

use super::table::{NOTHING, width};
use crate::crash::text::push_printable;

/// Printable texts by number.
pub(super) struct Texts {
    text: String,
    /// Where each ends.
    ends: Vec<usize>,
    widest: usize,
    /// Where to look for a text that was here before: the newest two of those that share a pair of slots. A text that isn't
    /// found is kept once more, so nothing that a crashed process writes makes this slower than keeping all. What had to be
    /// escaped is never found: it is another text than the one that it is shown as.
    slots: Box<[u32; SLOTS]>,
}

const PAIR_BITS: u32 = 10;
const SLOTS: usize = 2 << PAIR_BITS;

impl Default for Texts {
    fn default() -> Self {
        Self { text: NOTHING.to_owned(), ends: vec![NOTHING.len()], widest: 0, slots: Box::new([0; SLOTS]) }
    }
}

impl Texts {
    /// What an empty text is shown as.
    pub(super) const EMPTY: u32 = 0;

    /// The number of a text.
    pub(super) fn number(&mut self, text: &str) -> u32 {
        if text.is_empty() {
            self.widen(NOTHING.len());
            return Self::EMPTY;
        }
        let slot = slot(text.as_bytes());
        for known in [self.slots[slot], self.slots[slot + 1]] {
            if known != Self::EMPTY && self.get(known) == text {
                return known;
            }
        }
        let begin = self.text.len();
        push_printable(&mut self.text, text);
        let number = self.ends.len() as u32;
        self.ends.push(self.text.len());
        let shown = &self.text[begin..];
        // A byte is at least as wide as what it stands for; only where that would decide is it looked at more closely.
        if shown.len() > self.widest {
            self.widest = self.widest.max(width(shown));
        }
        if shown == text {
            self.slots[slot + 1] = self.slots[slot];
            self.slots[slot] = number;
        }
        number
    }

    /// How a text is shown.
    pub(super) fn get(&self, number: u32) -> &str {
        let number = number as usize;
        let begin = number.checked_sub(1).map_or(0, |before| self.ends[before]);
        &self.text[begin..self.ends[number]]
    }

    /// Columns that the widest text takes.
    pub(super) fn widest(&self) -> usize {
        self.widest
    }

    /// Makes room for what isn't kept here.
    pub(super) fn widen(&mut self, width: usize) {
        self.widest = self.widest.max(width);
    }

    /// Adds the texts of another; returns what is to be added to their numbers.
    pub(super) fn append(&mut self, other: &Self) -> u32 {
        let (known, begin) = (self.ends.len() as u32, self.text.len());
        self.text.push_str(&other.text);
        self.ends.extend(other.ends.iter().map(|end| begin + end));
        self.widen(other.widest);
        known
    }
}

/// The first slot of a text's pair. Paths and names differ at their ends.
fn slot(text: &[u8]) -> usize {
    let mixed = match (text.first_chunk(), text.last_chunk()) {
        (Some(first), Some(last)) => u64::from_le_bytes(*first).rotate_left(11) ^ u64::from_le_bytes(*last),
        _ => text.iter().fold(0, |number, byte| number << 8 | u64::from(*byte)),
    };
    2 * (mixed.wrapping_mul(0x9e37_79b9_7f4a_7c15) >> (u64::BITS - PAIR_BITS)) as usize
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_text_that_comes_again_has_the_same_number() {
        let mut texts = Texts::default();
        let numbers = ["/bin/a", "", "/bin/b", "/bin/a", "é"].map(|text| texts.number(text));
        assert_eq!(numbers, [1, Texts::EMPTY, 2, 1, 3]);
        assert_eq!(numbers.map(|number| texts.get(number)), ["/bin/a", "-", "/bin/b", "/bin/a", "é"]);
        assert_eq!(texts.widest(), 6);
    }

    #[test]
    fn what_was_escaped_is_not_taken_for_what_looks_the_same() {
        let mut texts = Texts::default();
        let numbers = ["a\n", r"a\n", "a\n"].map(|text| texts.number(text));
        assert_eq!(numbers.map(|number| texts.get(number)), [r"a\n", r"a\\n", r"a\n"]);
    }

    #[test]
    fn texts_that_share_their_slots_and_those_of_another_are_told_apart() {
        let name = |number: usize| format!("/usr/bin/{number}/same-end");
        let mut texts = [Texts::default(), Texts::default()];
        let numbers: Vec<u32> = (0..4000).map(|number| texts[number % 2].number(&name(number))).collect();
        let [mut texts, others] = texts;
        let more = texts.append(&others);
        for (row, number) in numbers.into_iter().enumerate() {
            assert_eq!(texts.get(number + row as u32 % 2 * more), name(row));
        }
    }
}
