//! The memory that all captures together may use for staged data.

use crate::crash::Principal;
use std::collections::HashMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

/// A budget of memory. memfd_create(2) files count towards the unit's `MemoryMax=`, though not to the daemon's resident size.
#[derive(Clone, Debug)]
pub struct MemoryBudget {
    of_one: u64,
    state: Arc<Mutex<BudgetState>>,
}

#[derive(Debug)]
struct BudgetState {
    left: u64,
    by_principal: HashMap<Principal, u64>,
}

/// A part of the budget, returned when this is dropped.
#[derive(Debug)]
pub struct MemoryGrant {
    bytes: u64,
    principal: Option<Principal>,
    state: Arc<Mutex<BudgetState>>,
}

impl MemoryBudget {
    /// A budget of this many bytes, of which one principal may have `of_one`.
    #[must_use]
    pub fn new(bytes: u64, of_one: u64) -> Self {
        Self { of_one, state: Arc::new(Mutex::new(BudgetState { left: bytes, by_principal: HashMap::new() })) }
    }

    /// Takes `bytes` out of the budget; `None` if fewer are left.
    #[must_use]
    pub fn reserve(&self, bytes: u64) -> Option<MemoryGrant> {
        let mut state = lock(&self.state);
        state.left = state.left.checked_sub(bytes)?;
        drop(state);
        Some(MemoryGrant { bytes, principal: None, state: Arc::clone(&self.state) })
    }

    /// Takes `bytes` out of the budget and of this principal's part of it; `None` if fewer are left.
    #[must_use]
    pub fn reserve_for(&self, principal: &Principal, bytes: u64) -> Option<MemoryGrant> {
        let mut state = lock(&self.state);
        let own = state.by_principal.get(principal).copied().unwrap_or(0).checked_add(bytes)?;
        if own > self.of_one {
            return None;
        }
        state.left = state.left.checked_sub(bytes)?;
        state.by_principal.insert(principal.clone(), own);
        drop(state);
        Some(MemoryGrant { bytes, principal: Some(principal.clone()), state: Arc::clone(&self.state) })
    }
}

impl Drop for MemoryGrant {
    fn drop(&mut self) {
        let mut state = lock(&self.state);
        state.left += self.bytes;
        let Some(principal) = &self.principal else { return };
        if let Some(own) = state.by_principal.get_mut(principal) {
            *own -= self.bytes;
            if *own == 0 {
                state.by_principal.remove(principal);
            }
        }
    }
}

fn lock(state: &Mutex<BudgetState>) -> MutexGuard<'_, BudgetState> {
    state.lock().unwrap_or_else(PoisonError::into_inner)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn nobody_has_more_than_a_part_and_everything_comes_back() {
        let budget = MemoryBudget::new(100, 50);
        let (one, other) = (Principal::Unit("a".to_owned()), Principal::Unit("b".to_owned()));
        let first = budget.reserve_for(&one, 30).unwrap();
        assert!(budget.reserve_for(&one, 21).is_none());
        let second = budget.reserve_for(&one, 20).unwrap();
        let third = budget.reserve_for(&other, 50).unwrap();
        assert!(budget.reserve(1).is_none());
        drop((first, second, third));
        assert!(budget.reserve(100).is_some());
        assert!(lock(&budget.state).by_principal.is_empty());
    }
}
