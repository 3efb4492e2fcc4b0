//! Makes a seed for the fuzz target of an interpreter (`python`, `ruby`, `php`) from an uncompressed core that has all mapped pages
//! (`coredump_filter` 0x7f, core(5)):
//! `cargo run --release --example seed_interpreter python CORE > corpus/python/NAME`.

use coreward::elf::{self, CoreLayout, DynamicSymbols, headers_len};
use coreward::runtime::Interpreter;
use coreward::unwind::ReadMemory;
use coreward_fuzz::{SYMBOLS, walk_memory};
use std::cell::RefCell;
use std::collections::BTreeMap;
use std::fs::File;
use std::io::Write;
use std::os::unix::fs::FileExt;

/// Reads memory from a core, and remembers what was read.
struct RecordingMemory<'a> {
    core: File,
    layout: &'a CoreLayout,
    pages: RefCell<BTreeMap<u64, Vec<u8>>>,
}

impl RecordingMemory<'_> {
    fn read(&self, address: u64, length: usize) -> Option<Vec<u8>> {
        let mut bytes = vec![0; length];
        let range = self.layout.file_range(address)?;
        self.core.read_exact_at(&mut bytes, range.start).ok().map(|()| bytes)
    }
}

impl ReadMemory for RecordingMemory<'_> {
    fn read_exact_at(&self, address: u64, buffer: &mut [u8]) -> bool {
        let Some(bytes) = self.read(address, buffer.len()) else { return false };
        buffer.copy_from_slice(&bytes);
        self.pages.borrow_mut().insert(address, bytes);
        true
    }
}

fn main() {
    let mut arguments = std::env::args().skip(1);
    let usage = "usage: seed_interpreter python|ruby|php CORE";
    let name = arguments.next().expect(usage);
    let all = [Interpreter::Python, Interpreter::Ruby, Interpreter::Php];
    let interpreter = all.into_iter().find(|interpreter| interpreter.name() == name).expect(usage);
    let core = File::open(arguments.next().expect(usage)).expect("the core can be opened");
    let mut start = vec![0; 4096];
    core.read_exact_at(&mut start, 0).expect("the core has an ELF header");
    let mut headers = vec![0; headers_len(&start).expect("the file is a core") as usize];
    core.read_exact_at(&mut headers, 0).expect("the core has its headers");
    let layout = CoreLayout::read(&headers).expect("the kernel wrote the core");
    let memory = RecordingMemory { core, layout: &layout, pages: RefCell::default() };
    let read = |address, length| memory.read(address, length);
    let mut executable = None;
    let mut found_stack = None;
    for file in layout.notes.files.iter().filter(|file| file.offset == 0) {
        let Some(image) = elf::read_image(file.start, read) else { continue };
        let Some(symbols) = DynamicSymbols::read(&image, layout.class, read) else { continue };
        // Which is mapped first, and whose symbols come first.
        let executable = executable.get_or_insert_with(|| symbols.clone());
        let find = |name: &&str| executable.find(name, read).or_else(|| symbols.find(name, read));
        let found: Vec<u64> = SYMBOLS.iter().map(|name| find(name).map_or(0, |found| found.0)).collect();
        if [0, 5, 7, 8].iter().any(|number| found[*number] != 0) {
            let is_data = |load: &&elf::LoadSegment| image.extent.contains(&load.address) && load.flags & 2 != 0;
            let begin = layout.loads.iter().filter(is_data).map(|load| load.address).min().unwrap_or(0);
            let pointer = layout.notes.threads.first().and_then(|thread| thread.thread_pointer).unwrap_or(0);
            let words = [found, vec![pointer, begin, image.extent.end]].concat();
            // Ruby maps its library a second time to report a crash, and that is not the one.
            memory.pages.borrow_mut().clear();
            // A program with copies of a library's variables has no frames.
            let stack = walk_memory(interpreter, &words, &memory).filter(|stack| !stack.frames.is_empty());
            if let Some(stack) = stack {
                found_stack = Some((words, stack));
                break;
            }
        }
    }
    let (words, stack) = found_stack.expect("the thread has a stack in an interpreter");
    eprintln!("{} frames, {} pages, {:?}", stack.frames.len(), memory.pages.borrow().len(), stack.incomplete);
    let mut out = std::io::stdout().lock();
    for word in words {
        out.write_all(&word.to_le_bytes()).expect("stdout can be written");
    }
    for (address, page) in memory.pages.borrow().iter() {
        out.write_all(&address.to_le_bytes()).expect("stdout can be written");
        out.write_all(page).expect("stdout can be written");
    }
}
