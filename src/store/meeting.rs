//! Two threads that read the same rows from both ends.

use std::sync::{Mutex, PoisonError};

/// Where two threads meet that come from both ends of the rows. Nobody knows the middle: rows that were folded are missing.
pub(super) struct Meeting(Mutex<(i64, i64)>);

impl Default for Meeting {
    fn default() -> Self {
        Self(Mutex::new((i64::MIN, i64::MAX)))
    }
}

#[derive(Clone, Copy)]
pub(super) enum Way<'a> {
    Up(&'a Meeting),
    Down(&'a Meeting),
}

impl Way<'_> {
    /// Claimed at once.
    const STEP: i64 = 255;

    /// Claims rows from `seq` on; returns the last of them. `None`: the other has them, and all behind.
    pub(super) fn claim(self, seq: i64) -> Option<i64> {
        let (Self::Up(meeting) | Self::Down(meeting)) = self;
        let mut claimed = meeting.0.lock().unwrap_or_else(PoisonError::into_inner);
        let (low, high) = *claimed;
        match self {
            Self::Up(_) if seq < high => claimed.0 = seq.saturating_add(Self::STEP).min(high - 1),
            Self::Down(_) if seq > low => claimed.1 = seq.saturating_sub(Self::STEP).max(low + 1),
            _ => return None,
        }
        Some(if matches!(self, Self::Up(_)) { claimed.0 } else { claimed.1 })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn two_that_come_from_both_ends_share_all_rows_and_none_twice() {
        let rows: Vec<i64> = (1..3000).filter(|seq| seq % 7 != 0 && !(500..2000).contains(seq)).collect();
        for turns in [1, 2, 40] {
            let meeting = Meeting::default();
            let (mut up, mut down) = (rows.iter().peekable(), rows.iter().rev().peekable());
            let mut shared: Vec<i64> = Vec::new();
            let mut is_going = [true, true];
            while is_going != [false, false] {
                // One of them is slower.
                for turn in 0..=turns {
                    let go =
                        |next: Option<&&i64>, way: Way<'_>| next.and_then(|next| Some((**next, way.claim(**next)?)));
                    if turn == 0 {
                        match go(down.peek(), Way::Down(&meeting)) {
                            Some((_, last)) => shared.extend(std::iter::from_fn(|| down.next_if(|seq| **seq >= last))),
                            None => is_going[0] = false,
                        }
                    } else {
                        match go(up.peek(), Way::Up(&meeting)) {
                            Some((_, last)) => shared.extend(std::iter::from_fn(|| up.next_if(|seq| **seq <= last))),
                            None => is_going[1] = false,
                        }
                    }
                }
            }
            shared.sort_unstable();
            assert!(shared == rows, "{turns}");
        }
    }
}
