//! Makes a seed for the fuzz target `debug_data` from two addresses, hexadecimal as in the headers of the file, of which the second calls the
//! first, and from a file, its debug file, and the file that dwz(1) made:
//! `cargo run --example seed_debug_data ADDRESS CALLER FILE [DEBUG [SUPPLEMENT]] > corpus/debug_data/NAME`.

use std::io::Write;

fn main() {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let [callee, caller, files @ ..] = arguments.as_slice() else {
        panic!("usage: seed_debug_data ADDRESS CALLER FILE [DEBUG [SUPPLEMENT]]")
    };
    let address = |text: &String| {
        u64::from_str_radix(text.trim_start_matches("0x"), 16).expect("a hexadecimal address").to_le_bytes()
    };
    let files: Vec<Vec<u8>> = files.iter().map(|path| std::fs::read(path).expect("the file can be read")).collect();
    let length = |number: usize| (files.get(number).map_or(0, Vec::len) as u32).to_le_bytes();
    let mut seed = [address(callee), address(caller)].concat();
    seed.extend([length(0), length(1)].concat());
    seed.extend(files.concat());
    std::io::stdout().lock().write_all(&seed).expect("stdout can be written");
}
