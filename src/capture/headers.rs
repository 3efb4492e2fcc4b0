//! The headers of a core, as the daemon holds them: never copied, and accounted for if they are long.

use super::memory_budget::{MemoryBudget, MemoryGrant};
use std::ops::Deref;
use std::sync::Arc;
use std::time::{Duration, Instant};

/// ELF header, program headers and notes of a core, whole.
#[derive(Clone, Debug)]
pub struct Headers {
    shared: Arc<SharedHeaders>,
}

#[derive(Debug)]
struct SharedHeaders {
    bytes: Vec<u8>,
    _grant: Option<MemoryGrant>,
}

/// Headers up to this length are not accounted for: as many sessions as there can be hold a few MiB.
const SHORT: u64 = 64 << 10;
/// The memory that headers take in all, by their length: the bytes, and the layout that is made of them.
const PER_BYTE: u64 = 3;

/// How often a wait looks for memory.
const POLL_INTERVAL: Duration = Duration::from_millis(10);

/// Memory for headers that are about to be read.
#[derive(Debug)]
pub struct HeadersGrant(Option<MemoryGrant>);

impl HeadersGrant {
    /// Reserves the memory for headers of `length` bytes; `None` if others have taken it.
    #[must_use]
    pub fn reserve(budget: &MemoryBudget, length: u64) -> Option<Self> {
        if length <= SHORT {
            return Some(Self(None));
        }
        budget.reserve(length.saturating_mul(PER_BYTE)).map(|grant| Self(Some(grant)))
    }

    /// As [`Self::reserve`], but waits for others to return theirs, up to the deadline. Blocks.
    #[must_use]
    pub fn wait(budget: &MemoryBudget, length: u64, deadline: Instant) -> Option<Self> {
        loop {
            let grant = Self::reserve(budget, length);
            if grant.is_some() || Instant::now() >= deadline {
                return grant;
            }
            std::thread::sleep(POLL_INTERVAL);
        }
    }
}

impl Headers {
    /// These headers, for which `grant` was reserved.
    #[must_use]
    pub fn new(bytes: Vec<u8>, grant: HeadersGrant) -> Self {
        Self { shared: Arc::new(SharedHeaders { bytes, _grant: grant.0 }) }
    }
}

impl Deref for Headers {
    type Target = [u8];

    fn deref(&self) -> &[u8] {
        &self.shared.bytes
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn long_headers_count_until_the_last_owner_drops_them() {
        let budget = MemoryBudget::new(1 << 20, 0);
        let long = 300 << 10;
        let grant = HeadersGrant::reserve(&budget, long).unwrap();
        assert!(HeadersGrant::reserve(&budget, long).is_none());
        assert!(HeadersGrant::reserve(&budget, SHORT).is_some());
        let headers = Headers::new(vec![0; 5], grant);
        let other = headers.clone();
        assert!(headers.as_ptr() == other.as_ptr(), "one copy");
        drop(headers);
        assert!(HeadersGrant::reserve(&budget, long).is_none());
        drop(other);
        assert!(HeadersGrant::reserve(&budget, long).is_some());
    }
}
