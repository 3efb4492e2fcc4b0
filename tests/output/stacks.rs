//! The stacks of real crashes, whose cores are made small: the fuzzer's seeds. Each has the headers of the core, and the pages that an
//! unwinder reads.

use crate::assert_output;
use coreward::crash::Frame;
use std::fs;
use std::path::Path;

#[expect(unreachable_pub, dead_code, reason = "the fuzz targets use it as a crate, and more of it")]
#[path = "../../fuzz/src/lib.rs"]
mod fuzz;

/// Numbers of module and offset, and how the frame was found.
fn line(frame: &Frame) -> String {
    let module = frame.module.map_or("-".to_owned(), |number| number.to_string());
    format!("    {module}+{:#x} {:?}\n", frame.offset, frame.trust)
}

#[test]
fn stacks_of_real_crashes() {
    let seeds = Path::new(env!("CARGO_MANIFEST_DIR")).join("fuzz/corpus/unwind");
    let mut names: Vec<_> = fs::read_dir(&seeds).unwrap().map(|entry| entry.unwrap().file_name()).collect();
    names.retain(|name| name.to_string_lossy().starts_with("bugs-"));
    names.sort();
    let mut text = String::new();
    for name in names {
        let bytes = fs::read(seeds.join(&name)).unwrap();
        let (headers, memory) = fuzz::parse_crash(&bytes).unwrap();
        let (id, frames) = fuzz::analyze(headers, &memory).unwrap();
        text.push_str(&format!("{}: {id}, {} frames\n", name.display(), frames.len()));
        text.extend(frames.iter().take(12).map(line));
    }
    assert_output("stacks", &text);
}
