//! What addr2line does not tell: in which classes and namespaces a C++ function is that has no mangled name, and which functions are
//! missing on the stack because they jumped to the next one (tail calls). Both are shown as gdb shows them.

use crate::crash::demangle;
use crate::crash::text::cut;
use gimli::{
    AttributeValue, DW_AT_GNU_tail_call, DW_AT_abstract_origin, DW_AT_call_origin, DW_AT_call_return_pc,
    DW_AT_call_tail_call, DW_AT_linkage_name, DW_AT_low_pc, DW_AT_name, DW_AT_specification, DW_TAG_GNU_call_site,
    DW_TAG_call_site, DebugInfoOffset, DwTag, Dwarf, EndianSlice, RunTimeEndian, Unit, UnitOffset, UnitRef,
};
use std::borrow::Cow;
use std::rc::Rc;

type Section<'a> = EndianSlice<'a, RunTimeEndian>;
type Entry<'a> = gimli::DebuggingInformationEntry<Section<'a>>;

/// How often an entry may refer to another one for its name.
const MAX_REFERENCES: usize = 8;
/// The most scopes that a name begins with.
const MAX_SCOPES: usize = 32;
/// The most functions that a call may have jumped through.
const MAX_CHAIN: usize = 32;
/// The most calls that are followed in search of such a chain.
const MAX_STEPS: usize = 2000;

/// An entry of DWARF, in the unit that has it.
#[derive(Clone)]
struct Place<'d, 'a> {
    dwarf: &'d Dwarf<Section<'a>>,
    unit: Rc<Unit<Section<'a>>>,
    offset: UnitOffset,
}

impl<'d, 'a> Place<'d, 'a> {
    fn unit(&self) -> UnitRef<'_, Section<'a>> {
        UnitRef::new(self.dwarf, &self.unit)
    }

    fn entry(&self) -> Option<Entry<'a>> {
        self.unit.entry(self.offset).ok()
    }

    /// The entry that an attribute refers to, which may be in another unit, or in the supplementary file of dwz(1).
    fn follow(&self, value: AttributeValue<Section<'a>>) -> Option<Self> {
        match value {
            AttributeValue::UnitRef(offset) => Some(Self { offset, ..self.clone() }),
            AttributeValue::DebugInfoRef(offset) => Self::find(self.dwarf, offset),
            AttributeValue::DebugInfoRefSup(offset) => Self::find(self.dwarf.sup()?, offset),
            _ => None,
        }
    }

    fn find(dwarf: &'d Dwarf<Section<'a>>, offset: DebugInfoOffset) -> Option<Self> {
        let mut units = dwarf.units();
        while let Ok(Some(header)) = units.next() {
            if let Some(offset) = offset.to_unit_offset(&header) {
                return Some(Self { dwarf, unit: Rc::new(dwarf.unit(header).ok()?), offset });
            }
        }
        None
    }

    fn text(&self, value: AttributeValue<Section<'a>>) -> Option<Cow<'a, str>> {
        Some(self.unit().attr_string(value).ok()?.to_string_lossy())
    }

    /// The name in the entry itself, of at most `limit` bytes.
    fn own_name(&self, limit: usize) -> Option<String> {
        Some(cut(&self.text(self.entry()?.attr_value(DW_AT_name)?)?, limit).to_owned())
    }
}

/// The name of the function at `offset` of `unit`, with the classes and namespaces that it is in.
pub(super) fn qualified_name(unit: UnitRef<'_, Section<'_>>, offset: UnitOffset, limit: usize) -> Option<String> {
    let unit_offset = unit.header.debug_info_offset()?;
    let place = Place::find(unit.dwarf, DebugInfoOffset(unit_offset.0 + offset.0))?;
    name_of(place, limit, 0)
}

fn name_of(mut place: Place<'_, '_>, limit: usize, depth: usize) -> Option<String> {
    for _ in 0..MAX_REFERENCES {
        let entry = place.entry()?;
        if let Some(name) = entry.attr_value(DW_AT_linkage_name).and_then(|value| place.text(value)) {
            return Some(demangle(&name, limit));
        }
        let origin = entry.attr_value(DW_AT_abstract_origin).or_else(|| entry.attr_value(DW_AT_specification));
        match origin {
            Some(origin) => place = place.follow(origin)?,
            None => {
                let name = place.own_name(limit)?;
                let mut scopes = scopes(&place, &name, limit, depth);
                scopes.push(name);
                return Some(cut(&scopes.join("::"), limit).to_owned());
            }
        }
    }
    None
}

/// The namespaces, classes and functions that an entry named `name` is in, the outermost first.
fn scopes(place: &Place<'_, '_>, name: &str, limit: usize, depth: usize) -> Vec<String> {
    let mut scopes = Vec::new();
    let mut ancestors = ancestors(place).unwrap_or_default();
    ancestors.drain(..ancestors.len().saturating_sub(MAX_SCOPES));
    // The name of a function has the scopes that it is in.
    if let Some(innermost) = ancestors.iter().rposition(|(_, tag)| *tag == gimli::DW_TAG_subprogram)
        && depth < MAX_REFERENCES
    {
        if let Some((offset, _)) = ancestors.drain(..=innermost).next_back() {
            scopes.extend(name_of(Place { offset, ..place.clone() }, limit, depth + 1));
        }
    }
    for (offset, tag) in ancestors {
        let own_name = || Place { offset, ..place.clone() }.own_name(limit);
        match tag {
            gimli::DW_TAG_namespace => scopes.push(own_name().unwrap_or_else(|| "(anonymous namespace)".to_owned())),
            gimli::DW_TAG_class_type
            | gimli::DW_TAG_structure_type
            | gimli::DW_TAG_union_type
            | gimli::DW_TAG_enumeration_type => {
                let unnamed = if name.starts_with("operator()") { "{lambda}" } else { "{unnamed}" };
                scopes.push(own_name().unwrap_or_else(|| unnamed.to_owned()));
            }
            _ => {}
        }
    }
    scopes
}

/// The entries that an entry is in, the outermost first.
fn ancestors(place: &Place<'_, '_>) -> Option<Vec<(UnitOffset, DwTag)>> {
    let mut entries = place.unit.entries_raw(None).ok()?;
    let mut ancestors: Vec<(isize, UnitOffset, DwTag)> = Vec::new();
    loop {
        let (offset, depth) = (entries.next_offset(), entries.next_depth());
        ancestors.truncate(ancestors.partition_point(|(above, ..)| *above < depth));
        if offset == place.offset {
            return Some(ancestors.into_iter().map(|(_, offset, tag)| (offset, tag)).collect());
        }
        if offset > place.offset || entries.is_empty() {
            return None;
        }
        if let Some(abbreviation) = entries.read_abbreviation().ok()? {
            ancestors.push((depth, offset, abbreviation.tag()));
            entries.skip_attributes(abbreviation.attributes()).ok()?;
        }
    }
}

/// A function with code, by the entry that describes it.
pub(super) struct CodeFunction<'d, 'a> {
    place: Place<'d, 'a>,
    /// Its first address.
    start: u64,
}

/// A call in a function.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct CallSite {
    /// The address behind it.
    return_address: u64,
    /// The first address of the function that is called, if that is known.
    target: Option<u64>,
    /// Whether it is a jump: the function that is called returns to the caller of this one.
    is_tail: bool,
}

impl<'d, 'a> CodeFunction<'d, 'a> {
    pub(super) fn new(unit: UnitRef<'d, Section<'a>>, offset: UnitOffset) -> Option<Self> {
        let unit_offset = unit.header.debug_info_offset()?;
        let place = Place::find(unit.dwarf, DebugInfoOffset(unit_offset.0 + offset.0))?;
        let start = start_of(&place)?;
        Some(Self { place, start })
    }

    /// Its first address.
    pub(super) fn start(&self) -> u64 {
        self.start
    }

    /// The calls in its code. `address_of` finds functions that the unit only declares.
    fn calls(&self, address_of: &dyn Fn(&str) -> Option<u64>) -> Option<Vec<CallSite>> {
        let unit = self.place.unit();
        let mut entries = unit.entries_at_offset(self.place.offset).ok()?;
        let mut calls = Vec::new();
        let mut is_first = true;
        while let Some(entry) = entries.next_dfs().ok()? {
            if !is_first && entry.depth() <= 0 {
                break;
            }
            is_first = false;
            let is_call = entry.tag() == DW_TAG_call_site || entry.tag() == DW_TAG_GNU_call_site;
            if !is_call {
                continue;
            }
            let address = entry.attr_value(DW_AT_call_return_pc).or_else(|| entry.attr_value(DW_AT_low_pc));
            let Some(return_address) = address.and_then(|value| unit.attr_address(value).ok()?) else { continue };
            let is_set = |attribute| matches!(entry.attr_value(attribute), Some(AttributeValue::Flag(true)));
            let origin = entry.attr_value(DW_AT_call_origin).or_else(|| entry.attr_value(DW_AT_abstract_origin));
            calls.push(CallSite {
                return_address,
                target: origin.and_then(|origin| target_of(&self.place.follow(origin)?, address_of)),
                is_tail: is_set(DW_AT_call_tail_call) || is_set(DW_AT_GNU_tail_call),
            });
        }
        Some(calls)
    }
}

/// The first address of a function.
fn start_of(place: &Place<'_, '_>) -> Option<u64> {
    let entry = place.entry()?;
    let unit = place.unit();
    if let Some(address) = entry.attr_value(DW_AT_low_pc).and_then(|value| unit.attr_address(value).ok()?) {
        return Some(address);
    }
    Some(unit.die_ranges(&entry).ok()?.next().ok()??.begin)
}

/// The first address of a function that is called.
fn target_of(place: &Place<'_, '_>, address_of: &dyn Fn(&str) -> Option<u64>) -> Option<u64> {
    if let Some(start) = start_of(place) {
        return Some(start);
    }
    // A declaration, or the abstract description of a function that was inlined elsewhere: the symbol table has the address.
    let mut place = place.clone();
    for _ in 0..MAX_REFERENCES {
        let entry = place.entry()?;
        let name = entry.attr_value(DW_AT_linkage_name).or_else(|| entry.attr_value(DW_AT_name));
        match (name, entry.attr_value(DW_AT_abstract_origin).or_else(|| entry.attr_value(DW_AT_specification))) {
            (Some(name), _) => return address_of(&place.text(name)?),
            (None, Some(origin)) => place = place.follow(origin)?,
            (None, None) => return None,
        }
    }
    None
}

/// The calls by which the function that starts at `callee` was reached from the call in `caller` that returns to `return_address`, other than that call itself: the
/// functions that have them are not on the stack any more. The innermost is the first, by the address behind the call. This is gdb's way
/// (`call_site_find_chain`): where several ways are possible, only what they have in common at their ends is returned.
pub(super) fn tail_calls<'d, 'a>(
    caller: &CodeFunction<'d, 'a>,
    return_address: u64,
    callee: u64,
    function_at: &dyn Fn(u64) -> Option<CodeFunction<'d, 'a>>,
    address_of: &dyn Fn(&str) -> Option<u64>,
) -> Vec<u64> {
    let calls = caller.calls(address_of).unwrap_or_default();
    let Some(first) = calls.iter().find(|call| call.return_address == return_address) else { return Vec::new() };
    let Some(target) = first.target.filter(|target| *target != callee) else { return Vec::new() };
    let tail_calls_of = |start: u64| {
        let calls = function_at(start).filter(|function| function.start == start)?.calls(address_of)?;
        Some(calls.into_iter().filter(|call| call.is_tail).collect::<Vec<_>>())
    };
    let mut common: Option<Common> = None;
    // The calls of the chain, and of each function on it the calls that were not followed yet.
    let mut chain: Vec<u64> = Vec::new();
    let mut open = vec![tail_calls_of(target).unwrap_or_default()];
    let mut steps = 0;
    while let Some(calls) = open.last_mut() {
        steps += 1;
        if steps > MAX_STEPS {
            return Vec::new();
        }
        if calls.is_empty() {
            open.pop();
            chain.pop();
            continue;
        }
        let call = calls.remove(0);
        if chain.contains(&call.return_address) || chain.len() == MAX_CHAIN {
            continue;
        }
        let Some(target) = call.target else { continue };
        chain.push(call.return_address);
        if target == callee {
            match &mut common {
                Some(common) => common.add(&chain),
                none => *none = Some(Common { chain: chain.clone(), prefix: chain.len(), suffix: chain.len() }),
            }
            chain.pop();
        } else {
            open.push(tail_calls_of(target).unwrap_or_default());
        }
    }
    common.map(Common::calls).unwrap_or_default()
}

/// What several chains have in common.
struct Common {
    /// The first of them, from the caller on.
    chain: Vec<u64>,
    prefix: usize,
    suffix: usize,
}

impl Common {
    fn add(&mut self, other: &[u64]) {
        let same = |left: &mut dyn Iterator<Item = &u64>, right: &mut dyn Iterator<Item = &u64>| {
            left.zip(right).take_while(|(left, right)| left == right).count()
        };
        self.prefix = self.prefix.min(same(&mut self.chain.iter(), &mut other.iter()));
        self.suffix = self.suffix.min(same(&mut self.chain.iter().rev(), &mut other.iter().rev()));
    }

    fn calls(self) -> Vec<u64> {
        let Self { mut chain, prefix, suffix } = self;
        if prefix < chain.len() {
            chain.drain(prefix..chain.len() - suffix.min(chain.len() - prefix));
        }
        chain.reverse();
        chain
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn of_several_chains_the_common_ends_remain() {
        let common = |chains: &[&[u64]]| {
            let mut common = Common { chain: chains[0].to_vec(), prefix: chains[0].len(), suffix: chains[0].len() };
            chains[1..].iter().for_each(|chain| common.add(chain));
            common.calls()
        };
        assert_eq!(common(&[&[1, 2, 3]]), [3, 2, 1]);
        assert_eq!(common(&[&[1, 2, 3, 4], &[1, 5, 4]]), [4, 1]);
        assert_eq!(common(&[&[1], &[2]]), [0; 0]);
        assert_eq!(common(&[&[1, 2], &[1, 2, 2]]), [2, 1]);
    }
}
