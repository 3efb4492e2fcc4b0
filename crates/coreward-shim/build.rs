//! Links the shim with the entry point that is in `coreward-sys` (src/entry.rs). Where it has none, the C library's is used.

fn main() {
    println!("cargo::rerun-if-changed=build.rs");
    let architecture = std::env::var("CARGO_CFG_TARGET_ARCH").unwrap_or_default();
    if ["x86_64", "aarch64"].contains(&architecture.as_str()) {
        println!("cargo::rustc-link-arg-bins=-Wl,-e,coreward_shim_start");
    }
}
