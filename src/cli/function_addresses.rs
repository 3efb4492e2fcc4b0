//! Addresses of functions, by their names in the symbol table of an ELF file.

use object::{Object, ObjectSymbol, SymbolKind, SymbolSection};
use std::collections::HashMap;

/// The functions of one file.
pub(super) struct FunctionAddresses(HashMap<Vec<u8>, Option<u64>>);

impl FunctionAddresses {
    /// Those of the symbol table, or of the dynamic one if the file is stripped.
    pub(super) fn read<'data>(file: &impl Object<'data>) -> Self {
        let mut addresses = HashMap::new();
        let regular = file.symbols();
        let dynamic = if file.symbol_table().is_none() { Some(file.dynamic_symbols()) } else { None };
        for symbol in regular.chain(dynamic.into_iter().flatten()) {
            let is_function = matches!(symbol.kind(), SymbolKind::Text | SymbolKind::Label | SymbolKind::Unknown);
            let (true, SymbolSection::Section(_), Ok(name)) = (is_function, symbol.section(), symbol.name_bytes())
            else {
                continue;
            };
            // A linker may have added a version.
            let name = name.split(|byte| *byte == b'@').next().unwrap_or_default();
            // Several functions of one name: nobody knows which.
            let known = addresses.entry(name.to_vec()).or_insert(Some(symbol.address()));
            *known = known.filter(|address| *address == symbol.address());
        }
        Self(addresses)
    }

    /// The first address of the function `name`, if there is one of this name.
    pub(super) fn of(&self, name: &str) -> Option<u64> {
        self.0.get(name.as_bytes()).copied().flatten()
    }
}
