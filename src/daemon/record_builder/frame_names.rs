//! The names of functions, and the compilers of code that no file has, in the frames of a record.

use super::RecordBuilder;
use crate::crash::text::cut;
use crate::crash::{Frame, MapsLine, Symbol};
use crate::reader::{ModuleFrames, Names};
use std::collections::{BTreeMap, BTreeSet, HashMap};

/// Longest name of a compiler, in bytes: the kernel's names of memory have at most 80 (ANON_VMA_NAME_MAX_LEN).
const MAX_COMPILER: usize = 80;

impl RecordBuilder {
    /// The frames of all threads whose functions have no name yet, by their modules.
    pub(in crate::daemon) fn unnamed_frames(&self) -> Vec<ModuleFrames> {
        let mut offsets: BTreeMap<u32, BTreeSet<u64>> = BTreeMap::new();
        for frame in self.record.frames().filter(|frame| frame.symbol.is_none()) {
            if let Some(number) = frame.module {
                offsets.entry(number).or_default().insert(frame.offset);
            }
        }
        let frames = |(number, offsets): (u32, BTreeSet<u64>)| {
            let module = self.record.modules.get(number as usize)?;
            Some(ModuleFrames {
                number,
                path: module.path.clone(),
                build_id: module.build_id.clone(),
                start: module.start,
                offsets: offsets.into_iter().collect(),
            })
        };
        offsets.into_iter().filter_map(frames).collect()
    }

    /// How many frames have no name yet.
    pub(in crate::daemon) fn unnamed_count(&self) -> usize {
        self.record.frames().filter(|frame| frame.symbol.is_none()).count()
    }

    /// Adds the names of functions that were found for these frames, as long as the record does not get longer by more than `room` bytes. The
    /// crashed thread comes first.
    pub(in crate::daemon) fn set_names(&mut self, frames: &[ModuleFrames], names: Names, mut room: usize) {
        let mut found: HashMap<(u32, u64), Symbol> = HashMap::new();
        for (module, symbols) in frames.iter().zip(names) {
            let named = module.offsets.iter().zip(symbols);
            found.extend(named.filter_map(|(offset, symbol)| Some(((module.number, *offset), symbol?))));
        }
        for frame in self.record.frames_mut().filter(|frame| frame.symbol.is_none()) {
            let symbol = frame.module.and_then(|number| found.get(&(number, frame.offset)));
            name(frame, symbol, &mut room);
        }
        self.bound();
    }

    /// Addresses in the functions of all frames that are in no module.
    pub(in crate::daemon) fn addresses_without_module(&self) -> Vec<u64> {
        /// As many as a stack has frames.
        const MAX_ADDRESSES: usize = 256;
        let frames = self.record.frames().filter(|frame| frame.module.is_none());
        let addresses: BTreeSet<u64> = frames.map(Frame::code_address).collect();
        addresses.into_iter().take(MAX_ADDRESSES).collect()
    }

    /// Adds who compiled the code at these addresses, by the lines of `/proc/PID/maps` that they are in. Whether any is in code that no file has.
    pub(in crate::daemon) fn set_compilers(&mut self, addresses: &[u64], lines: &[Option<String>]) -> bool {
        let mappings: Vec<(u64, MapsLine<'_>)> = addresses
            .iter()
            .zip(lines)
            .filter_map(|(address, line)| Some((*address, MapsLine::parse(line.as_deref()?)?)))
            .filter(|(_, mapping)| mapping.is_run_time_code())
            .collect();
        let modules = &self.record.modules;
        let compilers: HashMap<u64, String> = mappings
            .iter()
            .filter_map(|(address, mapping)| {
                Some((*address, cut(&mapping.compiler(modules)?, MAX_COMPILER).to_owned()))
            })
            .collect();
        for frame in self.record.frames_mut().filter(|frame| frame.module.is_none()) {
            frame.compiler = compilers.get(&frame.code_address()).cloned();
        }
        self.bound();
        !mappings.is_empty()
    }

    /// Adds the names of functions that were found at these addresses in the map of the code that the process compiled, as long as the record does
    /// not get longer by more than `room` bytes.
    pub(in crate::daemon) fn set_compiled_names(&mut self, addresses: &[u64], names: Names, mut room: usize) {
        let named = addresses.iter().copied().zip(names.into_iter().flatten());
        let found: HashMap<u64, Symbol> = named.filter_map(|(address, symbol)| Some((address, symbol?))).collect();
        for frame in self.record.frames_mut().filter(|frame| frame.module.is_none() && frame.symbol.is_none()) {
            let symbol = found.get(&frame.code_address());
            name(frame, symbol, &mut room);
        }
        self.bound();
    }
}

/// Adds a name, if there is `room` for it.
fn name(frame: &mut Frame, symbol: Option<&Symbol>, room: &mut usize) {
    if let Some((symbol, left)) = symbol.and_then(|symbol| Some((symbol, room.checked_sub(symbol.json_length())?))) {
        *room = left;
        frame.symbol = Some(symbol.clone());
    }
}
