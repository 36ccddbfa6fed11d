//! Notes the compiler's version, for the description of the machine that the figures are printed with.

use std::env;
use std::process::Command;

fn main() {
    println!("cargo::rerun-if-changed=build.rs");
    let rustc = env::var_os("RUSTC").unwrap_or_else(|| "rustc".into());
    let version = Command::new(rustc).arg("--version").output().ok().and_then(|out| String::from_utf8(out.stdout).ok());
    println!("cargo::rustc-env=SHMBC_BENCH_RUSTC={}", version.as_deref().unwrap_or("rustc unknown").trim());
}
