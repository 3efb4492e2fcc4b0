//! Addresses of functions and their names in the symbol table of an ELF file.

use object::{Object, ObjectSymbol, SymbolKind, SymbolSection};
use std::collections::HashMap;

/// The functions of one file.
pub(super) struct FunctionAddresses<'data>(HashMap<&'data [u8], Option<u64>>);

impl<'data> FunctionAddresses<'data> {
    pub(super) fn read(file: &impl Object<'data>) -> Self {
        let mut addresses = HashMap::new();
        for (address, name) in functions(file, |_| true) {
            // Several functions of one name: nobody knows which.
            let known = addresses.entry(name).or_insert(Some(address));
            *known = known.filter(|known| *known == address);
        }
        Self(addresses)
    }

    /// The first address of the function `name`, if there is one of this name.
    pub(super) fn of(&self, name: &str) -> Option<u64> {
        self.0.get(name.as_bytes()).copied().flatten()
    }
}

/// The names of functions whose addresses are `wanted`, with these: those of the symbol table, or of the dynamic one if the file is stripped.
pub(super) fn functions<'data: 'file, 'file>(
    file: &'file impl Object<'data>,
    wanted: impl Fn(u64) -> bool + 'file,
) -> impl Iterator<Item = (u64, &'data [u8])> + 'file {
    let dynamic = if file.symbol_table().is_none() { Some(file.dynamic_symbols()) } else { None };
    file.symbols().chain(dynamic.into_iter().flatten()).filter_map(move |symbol| {
        let address = symbol.address();
        let is_function = matches!(symbol.kind(), SymbolKind::Text | SymbolKind::Label | SymbolKind::Unknown);
        let is_defined = matches!(symbol.section(), SymbolSection::Section(_));
        // A linker may have added a version.
        let name = || symbol.name_bytes().ok()?.split(|byte| *byte == b'@').next();
        if is_function && is_defined && wanted(address) { Some((address, name()?)) } else { None }
    })
}
