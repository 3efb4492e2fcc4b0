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
/// The most ways by which a call may lead into other modules.
const MAX_EXITS: usize = 8;

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
        && let Some((offset, _)) = ancestors.drain(..=innermost).next_back()
    {
        scopes.extend(name_of(Place { offset, ..place.clone() }, limit, depth + 1));
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

/// A function that is called.
#[derive(Clone, Debug, PartialEq, Eq)]
enum Target {
    /// It begins at this address.
    Inner(u64),
    /// The file has no function of this name, so that it is in another module.
    Outer(String),
}

/// A call in a function.
#[derive(Clone, Debug, PartialEq, Eq)]
struct CallSite {
    /// The address behind it.
    return_address: u64,
    /// The function that is called, if that is known.
    target: Option<Target>,
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

/// The function that is called.
fn target_of(place: &Place<'_, '_>, address_of: &dyn Fn(&str) -> Option<u64>) -> Option<Target> {
    if let Some(start) = start_of(place) {
        return Some(Target::Inner(start));
    }
    // A declaration, or the abstract description of a function that was inlined elsewhere: the symbol table has the address.
    let mut place = place.clone();
    for _ in 0..MAX_REFERENCES {
        let entry = place.entry()?;
        let name = entry.attr_value(DW_AT_linkage_name).or_else(|| entry.attr_value(DW_AT_name));
        match (name, entry.attr_value(DW_AT_abstract_origin).or_else(|| entry.attr_value(DW_AT_specification))) {
            (Some(name), _) => {
                let name = place.text(name)?;
                return Some(address_of(&name).map_or_else(|| Target::Outer(name.into_owned()), Target::Inner));
            }
            (None, Some(origin)) => place = place.follow(origin)?,
            (None, None) => return None,
        }
    }
    None
}

/// The functions of a file, as they are found for tail calls.
pub(super) struct Functions<'f, 'd, 'a> {
    /// The function that contains an address.
    pub(super) at: &'f dyn Fn(u64) -> Option<CodeFunction<'d, 'a>>,
    /// The address of a function that a unit only declares, by its name.
    pub(super) address_of: &'f dyn Fn(&str) -> Option<u64>,
}

impl Functions<'_, '_, '_> {
    /// The function that is called by the call in the function at `caller`, an address in the call.
    fn target(&self, caller: u64) -> Option<Target> {
        let calls = (self.at)(caller)?.calls(self.address_of)?;
        calls.into_iter().find(|call| call.return_address == caller.wrapping_add(1))?.target
    }

    /// The tail calls of the function that begins at `start`.
    fn tail_calls_of(&self, start: u64) -> Vec<CallSite> {
        let function = (self.at)(start).filter(|function| function.start == start);
        let calls = function.and_then(|function| function.calls(self.address_of)).unwrap_or_default();
        calls.into_iter().filter(|call| call.is_tail).collect()
    }

    /// The chains of tail calls from a function to those that are an end, each by the addresses behind its calls, from the first on. `None` if there
    /// are too many to follow.
    fn chains(&self, from: Target, is_end: &dyn Fn(&Target) -> bool) -> Option<Vec<(Vec<u64>, Target)>> {
        if is_end(&from) {
            return Some(vec![(Vec::new(), from)]);
        }
        let tail_calls_of = |target: &Target| match target {
            Target::Inner(start) => self.tail_calls_of(*start),
            Target::Outer(_) => Vec::new(),
        };
        let mut found = Vec::new();
        // The calls of the chain, and of each function on it the calls that were not followed yet.
        let mut chain: Vec<u64> = Vec::new();
        let mut open = vec![tail_calls_of(&from)];
        let mut steps = 0;
        while let Some(calls) = open.last_mut() {
            steps += 1;
            if steps > MAX_STEPS {
                return None;
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
            if is_end(&target) {
                found.push((chain.clone(), target));
                chain.pop();
            } else {
                open.push(tail_calls_of(&target));
            }
        }
        Some(found)
    }

    /// The calls by which the function that starts at `callee` was reached from the call at `caller`, an address in it, other than that call itself:
    /// the functions that have them are not on the stack any more. The innermost is the first, by the address behind the call. This is gdb's way
    /// (`call_site_find_chain`): where several ways are possible, only what they have in common at their ends is returned.
    pub(super) fn tail_calls(&self, caller: u64, callee: u64) -> Vec<u64> {
        let target = self.target(caller).filter(|target| *target != Target::Inner(callee));
        target.and_then(|target| self.between(target, callee)).unwrap_or_default()
    }

    /// The same for the way from the function that begins at `start`; `None` if there is no way.
    pub(super) fn tail_calls_from(&self, start: u64, callee: u64) -> Option<Vec<u64>> {
        self.between(Target::Inner(start), callee)
    }

    fn between(&self, from: Target, callee: u64) -> Option<Vec<u64>> {
        let chains = self.chains(from, &|target| *target == Target::Inner(callee))?;
        let mut chains = chains.into_iter().map(|(chain, _)| chain);
        let mut common = Common::new(chains.next()?);
        chains.for_each(|chain| common.add(&chain));
        Some(common.calls())
    }

    /// The ways from the call at `caller`, an address in it, to functions of other modules, by their names: the calls of each, the innermost
    /// first, as for [`Self::tail_calls`]. None if there are more than [`MAX_EXITS`].
    pub(super) fn exits(&self, caller: u64) -> Vec<(Vec<u64>, String)> {
        let chains =
            self.target(caller).and_then(|target| self.chains(target, &|target| matches!(target, Target::Outer(_))));
        let chains = chains.filter(|chains| chains.len() <= MAX_EXITS).unwrap_or_default();
        let exit = |(mut chain, target): (Vec<u64>, Target)| {
            chain.reverse();
            match target {
                Target::Outer(name) => Some((chain, name)),
                Target::Inner(_) => None,
            }
        };
        chains.into_iter().filter_map(exit).collect()
    }
}

/// What several chains have in common.
struct Common {
    /// The first of them, from the caller on.
    chain: Vec<u64>,
    prefix: usize,
    suffix: usize,
}

impl Common {
    fn new(chain: Vec<u64>) -> Self {
        Self { prefix: chain.len(), suffix: chain.len(), chain }
    }

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
            let mut common = Common::new(chains[0].to_vec());
            chains[1..].iter().for_each(|chain| common.add(chain));
            common.calls()
        };
        assert_eq!(common(&[&[1, 2, 3]]), [3, 2, 1]);
        assert_eq!(common(&[&[1, 2, 3, 4], &[1, 5, 4]]), [4, 1]);
        assert_eq!(common(&[&[1], &[2]]), [0; 0]);
        assert_eq!(common(&[&[1, 2], &[1, 2, 2]]), [2, 1]);
    }
}
